"""What clients see when stages are slow: bounds, deadlines, order, and what their leaving sets free."""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from stages.blobs import default_dir
from stages.free_ports import free_port
from tests.fakes.files import files_under
from tests.system.harness import ROOT, System, data_url, digit_png, question, until
from tests.system.kit import access_line, log_lines, metrics

pytestmark = pytest.mark.slow  # real processes, for seconds each

SLOW = {"encode": 0.5, "prefill": 0.15, "seed-77": 0.4, "prefill-seed-78": 2.0}
TEXT = question("what digit is shown ?", max_tokens=3)
CRAWLING = {"seed": 77, "stream": True}
BLOCKER = {**TEXT, "seed": 78}
Answered = tuple[httpx.Response, float]
CLIENT = httpx.Client(timeout=60.0, trust_env=False, verify=False)
PATIENT, HASTY = 60, 1


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Prefill takes one prompt at a time, 0.2 s each."""
    folder = tmp_path_factory.mktemp("slow")
    policy = folder / "policy.yaml"
    text = (ROOT / "policies" / "tiny.yaml").read_text()
    text = text.replace(
        "prefill: {engine: tiny, hardware: [cpu], batch: 8}", "prefill: {engine: tiny, batch: 1}"
    )
    policy.write_text(text.replace("queue_s: 10", f"queue_s: {PATIENT}"))
    metrics_port = ("--metrics-port", str(free_port()))
    with System(folder, policy=policy, slow=SLOW, options=metrics_port) as running:
        warm(running)
        yield running


def warm(system: System) -> None:
    """Let prefill's rate become known: before, nobody can tell how long a backlog takes."""
    system.answer(TEXT)
    boot = system.processes("prefill")[0]["boot_id"]
    until("a rate", lambda: rate(system, boot) > 0)
    until("the gateway knows it", lambda: any(metrics(system)["tercet:replica_tokens_per_second"].values()))


def rate(system: System, boot: str) -> float:
    load = system.redis().hget(f"tercet:replica:{boot}", "load")
    return float(json.loads(str(load or "{}")).get("rate_tokens_per_s", 0.0))


def post(system: System, body: Any, name: str, **headers: str) -> Answered:
    """Answer and the second at which it was there."""
    named = {f"x-tercet-{key.replace('_', '-')}": value for key, value in headers.items()}
    url = f"{system.url}/v1/chat/completions"
    response = CLIENT.post(url, json=body, headers={"x-request-id": name, **named})
    return response, time.monotonic()


def hop_lines(system: System, name: str) -> dict[str, str]:
    """Outcomes of a request's hops, by hop."""
    return {
        line["hop"]: line["outcome"]
        for line in log_lines(system)
        if line.get("x_request_id") == name and line["message"] == "hop"
    }


def idle(system: System) -> bool:
    """Nothing is held for anybody: no credit, no request, no blob."""
    store = system.redis()
    blobs = files_under(blob_dir(system) / "owners")
    return not (store.keys("tercet:credits:*") or store.keys("tercet:request:*") or blobs)


def blob_dir(system: System) -> Path:
    return default_dir(str(system.port))


@contextmanager
def blocked(system: System) -> Iterator[ThreadPoolExecutor]:
    """While one request holds prefill's only slot, others can line up."""
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(post, system, BLOCKER, "blocker")
        until("prefill is taken", lambda: in_stage(system, "prefill"))
        yield pool
        assert first.result()[0].status_code == 200


def lined_up(system: System, pool: ThreadPoolExecutor, count: int, **headers: str) -> list[Future[Answered]]:
    """Send requests that are in no hurry, and return when they wait."""
    loose = [pool.submit(post, system, TEXT, f"loose-{n}", **headers) for n in range(count)]
    until("they wait", lambda: waiting(system) >= count)
    return loose


@pytest.mark.parametrize(
    ("rest_has", "hurry"),
    [
        pytest.param({"deadline_ms": "30000"}, {"deadline_ms": "8000"}, id="tight"),
        pytest.param({}, {"priority": "100"}, id="urgent"),
        pytest.param({"priority": "-100"}, {}, id="before-unimportant"),
    ],
)
def test_a_tight_or_urgent_request_overtakes_loose_ones(
    slow: System, rest_has: dict[str, str], hurry: dict[str, str]
) -> None:
    """It comes last, behind eight that differ from it in nothing else, and is answered before them."""
    with blocked(slow) as pool:
        loose = lined_up(slow, pool, 8, **rest_has)
        answer, tight_s = pool.submit(post, slow, TEXT, "tight", **hurry).result()
        rest = [each.result() for each in loose]
    assert answer.status_code == 200
    assert [response.status_code for response, _ in rest] == [200] * 8
    assert sum(done_s > tight_s for _, done_s in rest) >= 7


def waiting(system: System) -> float:
    return metrics(system)["tercet:num_requests_waiting"]['stage="prefill"']


def test_expired_work_is_dropped_before_it_costs_anything(slow: System) -> None:
    """A request whose deadline passes while it waits is a 504, and no stage ever heard of it."""
    with blocked(slow):
        started_s = time.monotonic()
        response, done_s = post(slow, TEXT, "too-late", deadline_ms="1000")
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert 0.9 < done_s - started_s < 1.9
    assert hop_lines(slow, "too-late") == {}


def test_a_deadline_in_the_midst_of_a_stream_ends_it_with_an_error_event(slow: System) -> None:
    """The first tokens came, so the status is 200; clients raise the error that follows."""
    response, _ = post(slow, {**TEXT, **CRAWLING}, "cut", deadline_ms="900")
    assert response.status_code == 200
    events = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert json.loads(events[0])["choices"][0]["delta"]["role"] == "assistant"
    assert json.loads(events[-2])["error"]["code"] == "deadline_exceeded"
    assert events[-1] == "[DONE]"
    until("everything is free", lambda: idle(slow))


def test_a_backlog_beyond_its_bound_is_a_429_with_the_time_to_wait(slow: System) -> None:
    """Who is let in is answered; Retry-After is the time that the backlog needs."""
    policy = slow.folder / "policy.yaml"
    with bound(policy, HASTY), ThreadPoolExecutor(40) as pool:
        until("in force", lambda: f"queue_s: {PATIENT}" in slow.logs() or "admission.queue_s" in slow.logs())
        results = [each.result()[0] for each in [pool.submit(post, slow, TEXT, f"b-{n}") for n in range(40)]]
    answered = [r for r in results if r.status_code == 200]
    refused = [r for r in results if r.status_code == 429]
    assert len(answered) + len(refused) == 40
    assert len(answered) >= 3
    assert len(refused) >= 5
    for response in refused:
        assert response.json()["error"]["type"] == "rate_limit_error"
        assert 1 <= int(response.headers["retry-after"]) <= 30


class bound:  # noqa: N801 - reads as a verb
    """Sets another bound on the backlog for a while."""

    def __init__(self, policy: Path, queue_s: int) -> None:
        self._policy, self._queue_s, self._text = policy, queue_s, policy.read_text()

    def __enter__(self) -> None:
        self._policy.write_text(self._text.replace(f"queue_s: {PATIENT}", f"queue_s: {self._queue_s}"))

    def __exit__(self, *_: object) -> None:
        self._policy.write_text(self._text)


def request_bytes(body: Any, name: str) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-request-id: {name}\r\n"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


def in_stage(system: System, hop: str) -> bool:
    requests = system.redis().keys("tercet:request:*")
    return any(system.redis().hexists(request, hop) for request in requests)


@pytest.mark.parametrize("stage", ["encode.0", "prefill", "decode"])
def test_a_client_that_leaves_frees_every_stage(slow: System, stage: str) -> None:
    """In whichever stage its request is: the work ends early; credits, KV and blobs are given back."""
    name = f"leaver-{stage}"
    picture = data_url(digit_png(9, 60 + len(stage))[0])
    body = question("what digit is shown ?", picture, **CRAWLING)
    with socket.create_connection(("127.0.0.1", slow.port)) as connection:
        connection.sendall(request_bytes(body, name))
        until(f"it is in {stage}", lambda: in_stage(slow, stage))
        if stage == "decode":
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    until("everything is free", lambda: idle(slow), 5.0)
    line = until("the access line", lambda: access_line(slow, name))
    assert line["client_gone"] is True
    outcomes = hop_lines(slow, name)
    assert outcomes.get("decode") != "done"
    if stage != "decode":
        assert "decode" not in outcomes
    assert slow.answer(TEXT)
