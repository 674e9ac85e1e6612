"""Requests across two hosts that share no file system: bytes go by the cable, and the cable may be cut."""

from collections.abc import Iterator
from hashlib import sha256

import pytest

from orchestrator.core.router import route
from orchestrator.core.types import Replica, RouteQuery
from orchestrator.ledger import EXIT_FENCED
from stages.front import Turn
from stages.generate import Generator
from stages.types import Stage
from tests.netns.hosts import Stack, Worker, slow_decode, two_hosts
from tests.system.harness import ROOT, data_url, digit_png, question, until

pytestmark = pytest.mark.netns

ASK = "what digit is shown ?"
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with two_hosts(tmp_path_factory.mktemp("hosts")) as (a, b):
        stack = Stack(a, b, (ROOT / "policies" / "tiny.yaml").read_text())
        stack.start()
        yield stack


@pytest.fixture(autouse=True)
def told_on_failure(stack: Stack) -> Iterator[None]:
    """Put the logs into the report of a test that fails."""
    yield
    stack.b.cable("up")
    for host in (stack.a, stack.b):
        print(f"--- logs of {host.name}\n{host.log_text()[-12_000:]}")


def base(stack: Stack, **decode: object) -> list[Worker]:
    """Encode and decode on one host, prefill and the gateway on the other: every hop crosses the cable."""
    return [
        Worker(stack.a, Stage.PREFILL, 1),
        Worker(stack.b, Stage.ENCODE, 1, keeps=True),
        Worker(stack.b, Stage.DECODE, 1, **decode),
    ]


def alone(*images: bytes) -> str:
    """What one process answers, without any host."""
    with Generator("tiny") as generator:
        turn = Turn(role="user", text=ASK, media=tuple(range(len(images))))
        return generator.generate([turn], images).text


def gone(stack: Stack, request_id: str) -> bool:
    return not stack.a.holds(request_id) and not stack.b.holds(request_id)


def test_a_question_is_answered_across_hosts_as_by_one_process(stack: Stack) -> None:
    stack.have(*base(stack, environment=slow_decode(0.2)))
    png, label = digit_png(3)
    asked = stack.stream(question(ASK, data_url(png)))
    until("the first piece", lambda: "".join(asked.pieces))
    assert stack.a.holds(asked.request_id), "the image and the KV cache are here"
    assert stack.b.holds(asked.request_id), "the embedding is there"
    asked.wait(60)
    assert asked.done
    assert NAMES[label] in asked.text
    assert asked.text == alone(png)
    until("its blobs are gone on both hosts", lambda: gone(stack, asked.request_id), 5.0)
    assert (stack.a.blob_count(), stack.b.blob_count()) == (0, 0)


def test_the_bytes_cross_the_cable(stack: Stack) -> None:
    stack.have(*base(stack))
    images = [digit_png(index)[0] for index in range(20)]
    before = stack.a.received_bytes(), stack.b.received_bytes()
    response = stack.post(question(ASK, *map(data_url, images)))
    assert response.status_code == 200, response.text
    to_a, to_b = stack.a.received_bytes() - before[0], stack.b.received_bytes() - before[1]
    prompt = response.json()["usage"]["prompt_tokens"]
    assert to_a > 20 * 9 * 128 * 4, "embeddings: nine rows of 128 float32 an image"
    assert to_b > sum(map(len, images)) + prompt * 3072, "the images, and 3072 bytes of KV a token"
    until("its blobs are gone on both hosts", lambda: stack.a.blob_count() + stack.b.blob_count() == 0, 5.0)


def test_a_host_with_a_wrong_token_gets_nothing(stack: Stack) -> None:
    """The client hears a clean error, and nothing stays behind."""
    workers = base(stack)
    workers[1] = Worker(stack.b, Stage.ENCODE, 3, token="guessed")
    stack.have(*workers)
    response = stack.post(question(ASK, data_url(digit_png(5)[0])))
    assert response.status_code == 503, response.text
    assert response.json()["error"]["code"] == "service_unavailable"
    assert "unauthorised" in (stack.b.logs / "encode-3.log").read_text()
    until("its blobs are gone", lambda: stack.a.blob_count() + stack.b.blob_count() == 0, 5.0)


def test_a_cut_cable_costs_no_token_if_the_other_host_can_take_over(stack: Stack) -> None:
    """Decode goes on from the tokens already sent; the embedding, now out of reach, is made again."""
    spare = [Worker(stack.a, Stage.ENCODE, 2), Worker(stack.a, Stage.DECODE, 2)]
    workers = base(stack, environment=slow_decode(1.0))
    stack.have(*workers, *spare)
    png = image_for(1)
    asked = stack.stream(question(ASK, data_url(png), max_tokens=8))
    until("the first piece", lambda: "".join(asked.pieces))
    assert stack.b.holds(asked.request_id), "the first encode and decode are on the far host"
    stack.b.cable("down")
    asked.wait(60)
    assert (asked.done, asked.error, asked.text) == (True, {}, alone(png))
    until("its blobs are gone on this host", lambda: not stack.a.holds(asked.request_id), 5.0)
    assert not {name for name in stack.registered() if name.partition(".")[0] in ("encode-1", "decode-1")}
    recovers(stack, workers)


def test_a_cut_cable_with_nobody_else_is_a_clean_error(stack: Stack) -> None:
    workers = base(stack, environment=slow_decode(1.0))
    stack.have(*workers)
    asked = stack.stream(
        question(ASK, data_url(digit_png(7)[0]), max_tokens=8), {"x-tercet-deadline-ms": "9000"}
    )
    until("the first piece", lambda: "".join(asked.pieces))
    stack.b.cable("down")
    until("the gateway is not ready", lambda: stack.ready()["ready"] is False, 5.0)
    refused = stack.post(question(ASK, data_url(digit_png(8)[0])))
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_replica")
    asked.wait(30)
    assert asked.done
    assert asked.error["code"] == "deadline_exceeded"
    until("its blobs are gone on this host", lambda: not stack.a.holds(asked.request_id), 5.0)
    recovers(stack, workers)


def test_decode_stays_in_the_domain_of_prefill(stack: Stack) -> None:
    """A live edit names the level of the edge; from then on the KV cache does not cross the cable.

    `auto` would ask for nothing here: the few megabytes of the tiny model cross any cable in time.
    """
    workers = [
        Worker(stack.a, Stage.PREFILL, 1, domain=("host-a",)),
        Worker(stack.b, Stage.ENCODE, 1, keeps=True, domain=("host-b",)),
        Worker(stack.b, Stage.DECODE, 1, domain=("host-b",)),
        Worker(stack.a, Stage.DECODE, 2, domain=("host-a",)),
    ]
    stack.have(*workers)
    assert stack.decoded_by(stack.post(question(ASK, data_url(digit_png(11)[0])))) == "decode-1"
    same_host = "{levels: [kubernetes.io/hostname], edges: {prefill-decode: kubernetes.io/hostname}}"
    with stack.policy_with(f"topology: {same_host}"):
        for _ in range(3):
            assert stack.decoded_by(stack.post(question(ASK, data_url(digit_png(11)[0])))) == "decode-2"


def recovers(stack: Stack, workers: list[Worker]) -> None:
    """Plug the cable in again: the fenced workers end, new ones take their place, and answers come."""
    stack.b.cable("up")
    fenced = [stack.b.processes[worker.name] for worker in workers if worker.host is stack.b]
    for process in fenced:
        until("a fenced worker ends", lambda process=process: process.poll() is not None)
        assert process.returncode == EXIT_FENCED
    stack.have(*workers)
    png, label = digit_png(9)
    answer = stack.post(question(ASK, data_url(png)))
    assert answer.status_code == 200, answer.text
    assert NAMES[label] in answer.json()["choices"][0]["message"]["content"]


def image_for(encoder: int) -> bytes:
    """Return an image whose affinity is with encode-1 or encode-2."""
    replicas = [
        Replica(replica_id=f"encode-{n}.x", stage=Stage.ENCODE, model="tiny", slots=8) for n in (1, 2)
    ]
    for index in range(50):
        png = digit_png(index)[0]
        query = RouteQuery(
            stage=Stage.ENCODE, model="tiny", tokens=9, prefix_tokens={}, affinity_key=sha256(png).hexdigest()
        )
        if route(query, replicas, {"cache_affinity": 1.0}).replica_id == f"encode-{encoder}.x":
            return png
    raise AssertionError("no image found")
