"""The gateway in one process: real routes, queues and pipeline over a fake ledger with scripted workers."""

import asyncio
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image

from orchestrator.core.kv import KvSizes
from orchestrator.counting import Counting, steady_unix_s
from orchestrator.fleet import Fleet
from orchestrator.gateway import Gateway
from orchestrator.intake import Intake
from orchestrator.kv_rules import KvRules
from orchestrator.metrics import Metrics
from orchestrator.policy import load_policy
from orchestrator.ports import DispatchOrder
from orchestrator.published import published
from stages.adapters.front import ServedFront
from stages.memory_blobs import MemoryBlobs
from stages.reply import Encoded, Failed, Prefilled, Reply, Tokens, encode_reply, is_terminal
from stages.tiny.front import TinyFront
from stages.types import (
    BlobHandle,
    DecodeJob,
    EmbeddingRef,
    FinishReason,
    KVRef,
    Modality,
    PrefillJob,
    Stage,
    TokenChunk,
)
from tests.fakes.ledger import FakeLedger

POLICY = load_policy(Path(__file__).parents[2] / "policies" / "tiny.yaml")
BLOB = BlobHandle(uri="inline:", sha256="", size_bytes=0, ttl_s=1.0)
PREFILLED = Prefilled(KVRef(blob=BLOB, tokens=6, first_token=30))
QUESTION = {"model": "tiny", "messages": [{"role": "user", "content": "what digit is shown ?"}]}
CHAT = "/v1/chat/completions"
Script = Callable[[DispatchOrder], Iterable[Reply]]


SERVED = ServedFront(
    name="tiny",
    modalities=frozenset({Modality.TEXT, Modality.IMAGE}),
    max_context=1024,
    kv_bytes_per_token=1,
    image_tokens=16,
)


def words(*tokens: int, finish: bool) -> list[Reply]:
    """One chunk a token, and the end if it comes."""
    chunks: list[Reply] = [Tokens(TokenChunk(index=i, tokens=(t,))) for i, t in enumerate(tokens)]
    last = TokenChunk(index=len(tokens), tokens=(), finish=FinishReason.STOP)
    return [*chunks, Tokens(last)] if finish else chunks


def good(order: DispatchOrder) -> Iterable[Reply]:
    return [PREFILLED] if order.job.hop == "prefill" else words(30, 18, 11, finish=True)


class Client:
    """One ASGI request and what came back."""

    def __init__(
        self, app: Gateway, path: str, body: bytes = b"", method: str = "POST", **headers: str
    ) -> None:
        self._app = app
        encoded = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self._scope = {"type": "http", "path": path, "method": method, "headers": encoded}
        self._pieces = [body[at : at + 1000] for at in range(0, len(body), 1000)] or [b""]
        self.gone = asyncio.Event()
        self.some = asyncio.Event()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""

    async def send(self) -> "Client":
        await self._app(self._scope, self._receive, self._send)
        return self

    def error(self) -> dict[str, Any]:
        return dict(json.loads(self.body)["error"])

    async def _receive(self) -> dict[str, Any]:
        if self._pieces:
            return {"type": "http.request", "body": self._pieces.pop(0), "more_body": bool(self._pieces)}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            assert not self.status, "a second answer"
            self.status = message["status"]
            self.headers = {k.decode(): v.decode() for k, v in message["headers"]}
        else:
            self.body += message["body"]
            self.some.set()


class Bench:
    """A gateway whose workers answer by a script."""

    def __init__(self, script: Script, front: TinyFront | ServedFront | None = None) -> None:
        self.ledger = FakeLedger(on_task=self._work)
        self.metrics = Metrics()
        self.counting = Counting("g", lambda: POLICY, self.metrics, steady_unix_s())
        self._script = script
        self._unanswered: list[DispatchOrder] = []
        self.fleet = Fleet(
            "g",
            self.ledger,
            lambda: POLICY,
            release=lambda request, urls: None,
            report=lambda: published("tiny", self.counting.count()),
            observer=self.counting,
        )
        front = front or TinyFront()
        intake = Intake(
            self.fleet,
            front,
            MemoryBlobs(),
            None,
            lambda: POLICY,
            on_offer=self.counting.offered,
            on_admission=lambda reason: None,  # type: ignore[arg-type]
            kv_rules=lambda: KvRules(sizes=KvSizes(token_bytes=front.kv_bytes_per_token)),
        )
        self.app = Gateway(
            self.fleet,
            intake,
            front,
            lambda: POLICY,
            self.metrics,
            self.counting,
            keys=None,
            problems=lambda: {"policy_error": "bad"},
        )

    def register(self) -> None:
        for stage in Stage:
            facts = {"stage": stage, "model": "tiny", "modalities": ["text", "image"]}
            facts |= {"hardware": "cpu", "domain": [], "kv_bytes": 10**9}
            self.ledger.worker(f"{stage}.1", stage).register(msgspec.json.encode(facts), 8, 10**9)

    def ask(self, **options: Any) -> Client:
        fields = {name: options.pop(name) for name in list(options) if name == "stream"}
        return Client(self.app, CHAT, json.dumps(QUESTION | fields).encode(), **options)

    def ask_about(self, url: str) -> Client:
        parts = [
            {"type": "text", "text": "what digit is shown ?"},
            {"type": "image_url", "image_url": {"url": url}},
        ]
        body = QUESTION | {"messages": [{"role": "user", "content": parts}]}
        return Client(self.app, CHAT, json.dumps(body).encode())

    def work_off(self) -> None:
        """Let workers answer what the script gave no answer to."""
        orders, self._unanswered = self._unanswered, []
        for order in orders:
            self._work(order)

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def ended(self, status: int) -> float:
        """Requests counted under a status."""
        return self.sample("tercet:request_total", status=str(status))

    def _work(self, order: DispatchOrder) -> None:
        asyncio.get_running_loop().call_soon(self._answer, order)

    def _answer(self, order: DispatchOrder) -> None:
        job, replies = order.job, list(self._script(order))
        self._unanswered += [] if replies else [order]
        for reply in replies:
            event = (job.key, job.reply_to, encode_reply(reply), is_terminal(reply))
            self.ledger.write(order.replica_id, [event])


@asynccontextmanager
async def running(script: Script = good, *, replicas: bool = True, front: Any = None) -> AsyncIterator[Bench]:
    bench = Bench(script, front)
    if replicas:
        bench.register()
    await bench.fleet.join()
    serving = asyncio.create_task(bench.fleet.run())
    try:
        yield bench
    finally:
        serving.cancel()
        await asyncio.wait({serving})


def run(test: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test

    asyncio.run(bounded())


def test_replicas_and_gateways_of_another_model_are_left_out() -> None:
    """Services of one stack share a registry; neither load nor metrics of one are the other's."""

    async def test() -> None:
        async with running() as bench:
            facts = {"stage": "decode", "model": "other", "modalities": [], "hardware": "cpu", "domain": []}
            stranger = bench.ledger.worker("decode.9", Stage.DECODE)
            stranger.register(msgspec.json.encode(facts | {"kv_bytes": 1}), 8, 1)
            report = {"model": "other", "waiting_tokens": {"decode": 99}}
            await bench.ledger.greet("theirs", msgspec.json.encode(report), first=True)
            await bench.fleet.join()
            bench.metrics.watch(bench.fleet, bench.counting)
            assert bench.fleet.load(Stage.DECODE).live_replicas == 1
            assert bench.fleet.load(Stage.DECODE).backlog_tokens == 0
            found = bench.metrics.registry.get_sample_value
            assert found("tercet:replica_in_flight", {"stage": "decode", "replica": "decode.1"}) == 0
            assert found("tercet:replica_in_flight", {"stage": "decode", "replica": "decode.9"}) is None

    run(test())


def test_an_answer_comes_through_prefill_and_decode() -> None:
    async def test() -> None:
        async with running() as bench:
            client = await bench.ask().send()
            assert (client.status, client.headers["content-length"]) == (200, str(len(client.body)))
            answer = json.loads(client.body)
            assert answer["choices"][0]["message"]["content"].split()
            assert answer["usage"]["completion_tokens"] == 3

    run(test())


def test_without_replicas_a_request_is_a_503_and_ready_says_which_stages_miss() -> None:
    async def test() -> None:
        async with running(replicas=False) as bench:
            client = await bench.ask().send()
            assert (client.status, client.error()["code"]) == (503, "no_replica")
            assert int(client.headers["retry-after"]) >= 1
            ready = await Client(bench.app, "/ready", method="GET").send()
            assert ready.status == 503
            assert json.loads(ready.body) == {
                "ready": False,
                "live_replicas": {"encode": 0, "prefill": 0, "decode": 0},
                "policy_error": "bad",
            }
            bench.register()
            while (ready := await Client(bench.app, "/ready", method="GET").send()).status != 200:
                await asyncio.sleep(0.02)
            assert (await Client(bench.app, "/health", method="GET").send()).status == 200

    run(test())


async def ready(bench: Bench, status: int) -> dict[str, Any]:
    """Wait until `/ready` has this status, and return what it says."""
    while (answer := await Client(bench.app, "/ready", method="GET").send()).status != status:
        await asyncio.sleep(0.02)
    return dict(json.loads(answer.body))


def test_a_gateway_that_cannot_read_the_registry_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """After one lease it cannot know of any replica that it lives."""
    for module in ("fleet", "gateway"):
        monkeypatch.setattr(f"orchestrator.{module}.LEASE_S", 0.5)

    async def test() -> None:
        async with running() as bench:
            assert "ledger_error" not in await ready(bench, 200)
            bench.ledger.away = True
            told = await ready(bench, 503)
            assert "Redis has not answered" in told["ledger_error"]
            assert "tercet status" in told["ledger_error"]
            bench.ledger.away = False
            assert "ledger_error" not in await ready(bench, 200)

    run(test())


def test_above_the_memory_watermark_new_requests_are_503s_and_running_ones_go_on() -> None:
    let_go = asyncio.Event()

    async def test() -> None:
        async with running(lambda order: good(order) if let_go.is_set() else []) as bench:
            early = asyncio.create_task(bench.ask().send())
            while not bench.ledger.queued["prefill.1"]:
                await asyncio.sleep(0.01)
            bench.ledger.memory_usage = 0.8
            while (refused := await bench.ask(x_tercet_deadline_ms="50").send()).status != 503:
                await asyncio.sleep(0.01)
            assert refused.error()["code"] == "ledger_full"
            assert int(refused.headers["retry-after"]) >= 1
            let_go.set()
            bench.work_off()
            assert (await early).status == 200
            bench.ledger.memory_usage = 0.7
            while (await bench.ask().send()).status != 200:
                await asyncio.sleep(0.01)

    run(test())


def test_no_image_is_encoded_while_prefill_is_behind() -> None:
    """Its backlog counts as all gateways see it; what was held goes on once prefill has caught up."""
    let_go = asyncio.Event()

    def held(order: DispatchOrder) -> Iterable[Reply]:
        if order.job.hop == "encode.0":
            return [Encoded(EmbeddingRef(blob=BLOB, content_hash="", tokens=9, dim=4))]
        return good(order) if let_go.is_set() else []

    async def test() -> None:
        async with running(held) as bench:
            bench.ledger.renew("prefill.1", b'{"rate_tokens_per_s": 1.0}')
            while not bench.fleet.load(Stage.PREFILL).rate_tokens_per_s:
                await asyncio.sleep(0.01)
            text = asyncio.create_task(bench.ask().send())
            while bench.fleet.load(Stage.PREFILL).backlog_s <= POLICY.admission_bounds.prefill_backlog_s:
                await asyncio.sleep(0.01)
            image = asyncio.create_task(bench.ask_about(png()).send())
            while not bench.fleet.queues[Stage.ENCODE].depth:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.5)  # several looks at the registry
            assert not bench.ledger.queued["encode.1"]
            let_go.set()
            bench.work_off()
            assert [client.status for client in await asyncio.gather(text, image)] == [200, 200]
            assert len(bench.ledger.queued["encode.1"]) == 1

    run(test())


def png() -> str:
    out = BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    return f"data:image/png;base64,{b64encode(out.getvalue()).decode()}"


def test_a_deadline_in_the_midst_of_a_stream_is_an_error_event_and_nothing_after_it() -> None:
    def stuck(order: DispatchOrder) -> Iterable[Reply]:
        return [PREFILLED] if order.job.hop == "prefill" else words(30, 18, finish=False)

    async def test() -> None:
        async with running(stuck) as bench:
            client = await bench.ask(stream=True, x_tercet_deadline_ms="300").send()
            events = client.body.decode().split("\n\n")
            assert client.status == 200
            assert json.loads(events[-3].removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
            assert events[-2:] == ["data: [DONE]", ""]
            assert (bench.ended(200), bench.ended(504)) == (0, 1)
            whole = await bench.ask(x_tercet_deadline_ms="300").send()
            assert (whole.status, whole.error()["code"]) == (504, "deadline_exceeded")

    run(test())


def test_a_client_that_leaves_has_its_request_closed_and_its_work_cancelled() -> None:
    def stuck(order: DispatchOrder) -> Iterable[Reply]:
        return [PREFILLED] if order.job.hop == "prefill" else words(30, finish=False)

    async def test() -> None:
        async with running(stuck) as bench:
            client = bench.ask(stream=True)
            asked = asyncio.create_task(client.send())
            await client.some.wait()
            client.gone.set()
            await asked
            while not any(message.startswith("cancel") for message in bench.ledger.told["decode.1"]):
                await asyncio.sleep(0.01)
            assert bench.ended(499) == 1
            assert bench.sample("tercet:num_requests_running") == 0

    run(test())


def test_what_a_stage_finds_invalid_is_a_400_with_its_words() -> None:
    def invalid(order: DispatchOrder) -> Iterable[Reply]:
        return [Failed("invalid", "the image ends early")]

    async def test() -> None:
        async with running(invalid) as bench:
            for stream in (False, True):
                client = await bench.ask(stream=stream).send()
                assert (client.status, client.error()["code"]) == (400, "invalid_media")
                assert "the image ends early" in client.error()["message"]

    run(test())


def test_a_fault_of_our_own_is_a_500_that_names_nothing_but_the_request() -> None:
    class Broken(TinyFront):
        def prompt(self, *_: Any) -> Any:
            raise KeyError("/secret/path")

    async def test() -> None:
        async with running(front=Broken()) as bench:
            client = await bench.ask(x_request_id="mine").send()
            assert client.status == 500
            assert client.error()["code"] == "internal_error"
            assert "mine" in client.error()["message"]
            assert "secret" not in client.body.decode()

    run(test())


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_beyond_the_limit_is_refused_while_it_comes(declared: bool) -> None:
    async def test() -> None:
        async with running() as bench:
            headers = {"content_length": "17000000"} if declared else {}
            body = b"x" * 1000 if declared else b"x" * 16_100_000
            client = Client(bench.app, CHAT, body, **headers)
            await client.send()
            assert (client.status, client.error()["code"]) == (413, "request_too_large")

    run(test())


def test_a_client_that_leaves_before_its_body_is_there_costs_nothing() -> None:
    async def test() -> None:
        async with running() as bench:
            client = bench.ask()
            client._pieces.clear()
            client.gone.set()
            await client.send()
            assert client.status == 0
            assert bench.ended(499) == 1

    run(test())


def relayed(order: DispatchOrder) -> Iterable[Reply]:
    """Answer as engines do that write for the client."""
    if order.job.hop.startswith("encode"):
        return [Encoded(EmbeddingRef(blob=BLOB, content_hash="h", tokens=16, dim=0))]
    if order.job.hop == "prefill":
        return [PREFILLED]
    return [
        Tokens(TokenChunk(index=0, tokens=(30,), raw='data: {"a":1}\n\n')),
        Tokens(TokenChunk(index=1, tokens=(18,), raw='data: {"b":2}\n\n', finish=FinishReason.STOP)),
    ]


def test_engines_that_read_chats_get_the_body_and_their_events_reach_the_client_as_they_are() -> None:
    jobs: list[Any] = []
    sent: dict[str, Any] = {}

    def script(order: DispatchOrder) -> Iterable[Reply]:
        jobs.append(order.job)
        return relayed(order)

    part = {"type": "image_url", "image_url": {"url": png(), "detail": "low"}, "uuid": "planted"}
    body = {
        "model": "tiny",
        "messages": [
            {"role": "tool", "content": [part, {"type": "text", "text": "what"}], "tool_call_id": "1"}
        ],
        "stream": True,
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "never_heard_of": {"x": 1},
    }

    async def test() -> None:
        async with running(script, front=SERVED) as bench:
            client = await Client(bench.app, CHAT, json.dumps(body).encode()).send()
            chat = next(job.chat for job in jobs if isinstance(job, PrefillJob))
            sent.update(json.loads(b64decode(chat.body.uri.partition(":")[2])))
            assert (client.status, client.headers["content-type"][:17]) == (200, "text/event-stream")
            assert client.body == b'data: {"a":1}\n\ndata: {"b":2}\n\ndata: [DONE]\n\n'
            assert bench.sample("tercet:generation_tokens_total") == 2

    run(test())
    (prefill,) = [job for job in jobs if isinstance(job, PrefillJob)]
    (decode,) = [job for job in jobs if isinstance(job, DecodeJob)]
    assert prefill.chat == decode.chat and prefill.prompt.token_ids == ()
    assert prefill.chat and len(prefill.chat.items) == 1
    (stored,) = [each for each in sent["messages"][0]["content"] if each["type"] == "image_url"]
    assert stored["image_url"] == {"url": "media:0", "detail": "low"}
    assert stored["uuid"] == prefill.chat.items[0].content_hash
    assert {name: sent[name] for name in ("tools", "never_heard_of")} == {
        name: body[name] for name in ("tools", "never_heard_of")
    }
    assert isinstance(sent["seed"], int)  # so that a lost decode can be run again


def test_an_engines_whole_answer_is_the_clients() -> None:
    def script(order: DispatchOrder) -> Iterable[Reply]:
        if order.job.hop == "prefill":
            return [PREFILLED]
        return [Tokens(TokenChunk(index=0, tokens=(1, 2), finish=FinishReason.LENGTH, raw='{"x":1}'))]

    async def test() -> None:
        async with running(script, front=SERVED) as bench:
            client = await bench.ask().send()
            assert (client.status, client.body) == (200, b'{"x":1}')

    run(test())


@pytest.mark.parametrize(
    ("change", "param"), [({"n": 2}, "n"), ({"messages": []}, "messages"), ({"max_tokens": 0}, "max_tokens")]
)
def test_what_concerns_tercet_is_checked_even_if_the_engine_reads_the_chat(
    change: dict[str, Any], param: str
) -> None:
    async def test() -> None:
        async with running(relayed, front=SERVED) as bench:
            client = await Client(bench.app, CHAT, json.dumps(QUESTION | change).encode()).send()
            assert (client.status, client.error()["param"]) == (400, param)

    run(test())


def test_an_answer_that_cannot_be_continued_ends_with_an_error_event() -> None:
    def script(order: DispatchOrder) -> Iterable[Reply]:
        if order.job.hop == "prefill":
            return [PREFILLED]
        if order.job.attempt > 1:
            return [Failed("diverged", "other tokens")]
        return [Tokens(TokenChunk(index=0, tokens=(1,), raw='data: {"a":1}\n\n')), Failed("refused", "gone")]

    async def test() -> None:
        async with running(script, front=SERVED) as bench:
            client = await bench.ask(stream=True).send()
            *_, error, done = client.body.strip().split(b"\n\n")
            assert done == b"data: [DONE]"
            assert json.loads(error[6:])["error"]["code"] == "answer_lost"

    run(test())
