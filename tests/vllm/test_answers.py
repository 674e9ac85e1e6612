"""A real vLLM in three parts says what one vLLM says, and each part hands its work to the next."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from stages.types import Stage
from tests.stages.emulator.kit import chat, image
from tests.system.harness import System
from tests.system.served import CASES, ask, said
from tests.vllm.kit import Server, server, until_idle

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]

FETCHED = {"source": "external_kv_transfer"}
FAILED = (
    "vllm:nixl_num_failed_transfers_total",
    "vllm:nixl_num_failed_notifications_total",
    "vllm:nixl_num_kv_expired_reqs_total",
)


@pytest.mark.parametrize("body", CASES.values(), ids=CASES)
def test_three_servers_say_what_one_does(served: System, alone: Server, body: dict[str, Any]) -> None:
    whole = alone.chat(body)["choices"][0]
    answer = ask(served, body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["token_ids"] == whole["token_ids"]
    stream = ask(served, body | {"stream": True, "return_token_ids": False})
    assert said(stream.text) == whole["message"]["content"]
    assert stream.text.endswith("data: [DONE]\n\n")


def test_decode_computes_no_prompt_that_prefill_has_computed(served: System) -> None:
    decode = server(served, Stage.DECODE)
    before = decode.metric("vllm:prompt_tokens_by_source_total", **FETCHED)
    usage = ask(served, chat("describe " * 40, image(30), model="tiny")).json()["usage"]
    fetched = decode.metric("vllm:prompt_tokens_by_source_total", **FETCHED) - before
    assert fetched == usage["prompt_tokens"]


def test_two_hundred_at_concurrency_eight_are_equal_and_leave_nothing(served: System, alone: Server) -> None:
    bodies = [
        chat(f"question {n}", *[image(40 + n % 50)] * (n % 3), model="tiny", max_tokens=16)
        for n in range(200)
    ]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: ask(served, body).json(), bodies))
        whole = list(pool.map(alone.chat, bodies))
    differ = [
        n
        for n, (one, other) in enumerate(zip(answers, whole, strict=True))
        if one["choices"][0]["token_ids"] != other["choices"][0]["token_ids"]
    ]
    assert not differ
    until_idle(served)
    assert not any(server(served, stage).metric(name) for stage in Stage for name in FAILED)
