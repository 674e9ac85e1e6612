"""Servers that are killed, replaced or late under load, and clients that leave: nothing is lost or kept."""

import hashlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from stages.types import Stage
from tests.stages.emulator.kit import chat, image, png
from tests.system.harness import Stream, System, streams, until
from tests.system.served import CHAT, ask
from tests.vllm.kit import START_S, Server, engine_of, server, until_idle

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]

EMBEDDING_BYTES = 16 * 128 * 4
"""Of an image of 112 by 112 pixels: sixteen rows, float32."""


@pytest.fixture(autouse=True)
def ready(served: System) -> None:
    """Whatever the test before did to the system has been made good."""
    until("ready", served.is_up, START_S)


def question(number: int, **fields: Any) -> dict[str, Any]:
    """Return a body with an image that no other test has."""
    return chat(f"question {number}", image(100 + number), model="tiny", return_token_ids=False, **fields)


def answers(alone: Server, bodies: list[dict[str, Any]]) -> list[str]:
    with ThreadPoolExecutor(4) as pool:
        whole = list(pool.map(alone.chat, bodies))
    return [answer["choices"][0]["message"]["content"] for answer in whole]


def texts(found: list[Stream | BaseException]) -> list[str]:
    """Return what streams said; each has to have ended once, without an error."""
    for each in found:
        assert isinstance(each, Stream), each
        assert (each.status, each.error, each.ends, each.done) == (200, None, ("length",), True)
    return [each.text for each in found if isinstance(each, Stream)]


@pytest.mark.parametrize("stage", Stage)
def test_a_killed_server_costs_its_requests_time_and_nothing_else(
    served: System, alone: Server, stage: Stage
) -> None:
    """kill -9 while it has work; it comes back by itself, and so does its worker."""
    bodies = [question(10 * engine_of(stage) + n, max_tokens=200) for n in range(6)]
    victim = server(served, stage)

    def kill() -> None:
        until(f"{stage} works", lambda: victim.metric("vllm:request_success_total") or not victim.idle())
        old = served.signal("engine", signal.SIGKILL, engine_of(stage))
        served.restarted("engine", old, engine_of(stage))

    assert texts(streams(served, bodies, kill, START_S)) == answers(alone, bodies)
    until_idle(served)


def test_a_lost_answer_is_gone_on_with_where_it_broke_off(served: System, alone: Server) -> None:
    """The decode server that comes back computes only what the client lacks."""
    body = question(95, max_tokens=400, ignore_eos=True)

    def kill() -> None:
        decode = server(served, Stage.DECODE)
        until("half is said", lambda: decode.metric("vllm:generation_tokens_total") > begun + 150)
        old = served.signal("engine", signal.SIGKILL, engine_of(Stage.DECODE))
        served.restarted("engine", old, engine_of(Stage.DECODE))

    begun = server(served, Stage.DECODE).metric("vllm:generation_tokens_total")
    assert texts(streams(served, [body], kill, START_S)) == answers(alone, [body])
    assert server(served, Stage.DECODE).metric("vllm:generation_tokens_total") < 300


@pytest.mark.parametrize("stage", Stage)
def test_a_worker_that_is_replaced_under_load_finishes_what_it_has(
    served: System, alone: Server, stage: Stage
) -> None:
    bodies = [question(40 + 10 * engine_of(stage) + n, max_tokens=100) for n in range(6)]

    def replace() -> None:
        until("decode works", lambda: not server(served, Stage.DECODE).idle())
        served.restarted(stage, served.signal(stage, signal.SIGTERM))

    assert texts(streams(served, bodies, replace)) == answers(alone, bodies)


def test_a_client_that_leaves_frees_the_blocks_of_its_request(served: System) -> None:
    """Decode has begun when it says something, and is far from its end."""
    body = question(80, max_tokens=900, ignore_eos=True, stream=True)
    decode, said = server(served, Stage.DECODE), "vllm:generation_tokens_total"
    begun = decode.metric(said)
    with httpx.stream("POST", served.url + CHAT, json=body, timeout=30.0, trust_env=False) as response:
        next(response.iter_lines())
    until_idle(served)
    assert begun < decode.metric(said) < begun + 900


def test_a_kv_cache_whose_lease_ends_before_decode_is_made_again(served: System, alone: Server) -> None:
    """Decode's server stands still for longer than prefill keeps the cache for it."""
    bodies = [question(90 + n) for n in range(2)]
    process = served.pid("engine", engine_of(Stage.DECODE))

    def stall() -> None:
        os.killpg(process, signal.SIGSTOP)
        expired = "vllm:nixl_num_kv_expired_reqs_total"
        before = server(served, Stage.PREFILL).metric(expired)
        try:
            until("the lease ends", lambda: server(served, Stage.PREFILL).metric(expired) > before, 60.0)
        finally:
            os.killpg(process, signal.SIGCONT)

    assert texts(streams(served, bodies, stall, START_S)) == answers(alone, bodies)
    until_idle(served)


def test_prefill_takes_the_embedding_that_encode_made(served: System, alone: Server) -> None:
    """With an embedding of zeros in its place, the answer is another one."""
    body = chat("what is this", image(99), model="tiny")
    name = hashlib.sha256(png(shade=99)).hexdigest()
    server(served, Stage.ENCODE).chat(chat(image(99, uuid=name), model="tiny", max_tokens=1))
    file = served.state / "embeddings" / name / "encoder_cache.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-EMBEDDING_BYTES] + bytes(EMBEDDING_BYTES))
    answer = ask(served, body).json()["choices"][0]
    assert answer["token_ids"] != alone.chat(body)["choices"][0]["token_ids"]
