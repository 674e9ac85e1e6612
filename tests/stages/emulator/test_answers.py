"""The very bytes of vLLM 0.32, but for ids, times and fingerprints."""

import json

import pytest

from stages.emulator.config import EmulatorConfig, Role
from tests.fakes.emulator import emulated
from tests.stages.emulator.kit import chat


@pytest.fixture(scope="module")
def engine():
    with emulated(EmulatorConfig(role=Role.AGGREGATED)) as engine:
        yield engine


def events(engine, **fields):
    answer = engine.chat(chat("hello", max_tokens=2, stream=True, **fields), **{"x-request-id": "mine"})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    *chunks, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]


def test_a_whole_answer(engine):
    answer = engine.chat(chat("hello", max_tokens=2), **{"x-request-id": "mine"}).json()
    assert list(answer) == [
        "id",
        "object",
        "created",
        "model",
        "choices",
        "service_tier",
        "system_fingerprint",
        "usage",
        "prompt_logprobs",
        "prompt_token_ids",
        "prompt_text",
        "kv_transfer_params",
        "ec_transfer_params",
        "metrics",
    ]
    assert answer["id"] == "chatcmpl-mine"
    assert list(answer["choices"][0]) == [
        "index",
        "message",
        "logprobs",
        "finish_reason",
        "stop_reason",
        "token_ids",
        "routed_experts",
    ]
    assert answer["usage"] == {
        "prompt_tokens": len(answer["prompt_token_ids"]),
        "total_tokens": len(answer["prompt_token_ids"]) + 2,
        "completion_tokens": 2,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }


def test_ids_are_said_when_asked_for(engine):
    answer = engine.chat(chat("hello", return_token_ids=None)).json()
    assert answer["choices"][0]["token_ids"] is None and answer["prompt_token_ids"] is None


def test_events(engine):
    first, *deltas, last, usage = events(engine, stream_options={"include_usage": True})
    assert list(first) == ["id", "object", "created", "model", "choices", "prompt_token_ids", "prompt_text"]
    assert first["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    ]
    for event in deltas:
        assert list(event["choices"][0]) == ["index", "delta", "logprobs", "finish_reason", "token_ids"]
    assert list(last["choices"][0]) == [
        *("index", "delta", "logprobs", "finish_reason", "stop_reason", "token_ids")
    ]
    assert last["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == [] and list(usage)[4:] == ["choices", "usage", "system_fingerprint"]
    assert list(usage["usage"]) == ["prompt_tokens", "total_tokens", "completion_tokens"]


def test_without_usage_the_last_event_has_the_fingerprint(engine):
    *others, last = events(engine)
    assert "system_fingerprint" in last and not any("system_fingerprint" in event for event in others)


def test_usage_may_be_in_every_event(engine):
    said = [
        event["usage"]["completion_tokens"]
        for event in events(engine, stream_options={"include_usage": True, "continuous_usage_stats": True})
    ]
    assert said[0] == 0 and said[-1] == 2 and said == sorted(said)


def test_without_ids_events_say_null(engine):
    first, *rest = events(engine, return_token_ids=False)
    assert first["prompt_token_ids"] is None
    assert all(event["choices"][0]["token_ids"] is None for event in rest)
