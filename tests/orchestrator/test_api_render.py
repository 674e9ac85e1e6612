"""Answers, read by the official client as it would read OpenAI's."""

import json

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.api_errors import error_body, rate_limited, timed_out
from orchestrator.api_render import (
    DONE,
    AnswerHead,
    EventStream,
    Usage,
    completion_body,
    error_event,
    models_body,
)
from stages.types import FinishReason

HEAD = AnswerHead(completion_id="chatcmpl-1", model='ti"ny', created_unix_s=1_700_000_000)
USAGE = Usage(prompt_tokens=14, completion_tokens=2, cached_tokens=9)
QUESTION = [{"role": "user", "content": "what digit is shown ?"}]


def client(status: int, body: bytes, **headers: str) -> openai.OpenAI:
    """The official client in front of a server that always gives this answer."""
    answer = lambda request: httpx.Response(status, content=body, headers=headers)  # noqa: E731
    http = httpx.Client(transport=httpx.MockTransport(answer))
    return openai.OpenAI(api_key="x", base_url="http://gateway.test/v1", http_client=http, max_retries=0)


def event(value: bytes) -> dict[str, object]:
    assert value.startswith(b"data: ") and value.endswith(b"\n\n") and value.count(b"\n") == 2
    return json.loads(value[6:])


def test_the_client_reads_a_whole_answer():
    body = completion_body(HEAD, "seven", FinishReason.STOP, USAGE)
    answer = client(200, body, **{"content-type": "application/json"}).chat.completions.create(
        model="tiny", messages=QUESTION
    )
    assert (answer.id, answer.model, answer.created) == ("chatcmpl-1", 'ti"ny', 1_700_000_000)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("seven", "stop")
    assert (answer.usage.total_tokens, answer.usage.prompt_tokens_details.cached_tokens) == (16, 9)
    assert json.loads(body)["choices"][0] == {
        "index": 0,
        "message": {"role": "assistant", "content": "seven", "refusal": None},
        "logprobs": None,
        "finish_reason": "stop",
    }


@pytest.mark.parametrize("include_usage", [False, True])
def test_the_client_reads_a_stream(include_usage):
    events = EventStream(HEAD, include_usage=include_usage)
    parts = [events.first(), events.delta("se\n"), events.delta("ven"), events.last(FinishReason.LENGTH)]
    body = b"".join([*parts, *([events.usage(USAGE)] if include_usage else []), DONE])
    stream = client(200, body, **{"content-type": "text/event-stream"}).chat.completions.create(
        model="tiny", messages=QUESTION, stream=True
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "se\nven"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:4]] == [None, None, None, "length"]
    assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == ([16] if include_usage else [])


def test_chunks_have_openais_fields_and_no_others():
    events = EventStream(HEAD, include_usage=False)
    head = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": 'ti"ny',
        "system_fingerprint": None,
    }
    choice = {"index": 0, "logprobs": None, "finish_reason": None}
    first = choice | {"delta": {"role": "assistant", "content": ""}}
    assert event(events.first()) == head | {"choices": [first]}
    assert event(events.delta("x")) == head | {"choices": [choice | {"delta": {"content": "x"}}]}
    last = choice | {"delta": {}, "finish_reason": "stop"}
    assert event(events.last(FinishReason.STOP)) == head | {"choices": [last]}


def test_with_usage_every_chunk_has_the_field_and_only_the_last_a_value():
    events = EventStream(HEAD, include_usage=True)
    chunks = [events.first(), events.delta("x"), events.last(FinishReason.STOP)]
    assert [event(chunk)["usage"] for chunk in chunks] == [None, None, None]
    last = event(events.usage(USAGE))
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 14,
        "completion_tokens": 2,
        "total_tokens": 16,
        "prompt_tokens_details": {"cached_tokens": 9},
    }


@given(st.text(), st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20))
def test_any_text_and_model_name_survive_a_delta(text, model):
    head = AnswerHead(completion_id="chatcmpl-1", model=model, created_unix_s=1)
    chunk = event(EventStream(head, include_usage=True).delta(text))
    assert (chunk["choices"][0]["delta"]["content"], chunk["model"]) == (text, model)


def test_the_client_raises_an_error_in_the_midst_of_a_stream():
    events = EventStream(HEAD, include_usage=False)
    body = events.first() + error_event(timed_out("the deadline passed")) + DONE
    stream = client(200, body, **{"content-type": "text/event-stream"}).chat.completions.create(
        model="tiny", messages=QUESTION, stream=True
    )
    with pytest.raises(openai.APIError, match="the deadline passed"):
        list(stream)


def test_the_client_raises_its_own_rate_limit_error():
    error = rate_limited("the backlog is 12 s", 1.5)
    with pytest.raises(openai.RateLimitError, match="the backlog is 12 s") as caught:
        client(error.status, error_body(error), **error.headers).chat.completions.create(
            model="tiny", messages=QUESTION
        )
    assert (caught.value.code, caught.value.response.headers["retry-after"]) == ("rate_limit_exceeded", "2")


def test_the_client_lists_models():
    body = models_body(["tiny", "smollm2"], 5)
    models = client(200, body, **{"content-type": "application/json"}).models.list()
    assert [(model.id, model.created, model.owned_by) for model in models] == [
        ("smollm2", 5, "tercet"),
        ("tiny", 5, "tercet"),
    ]
