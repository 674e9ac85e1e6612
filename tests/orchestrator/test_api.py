"""Request bodies: what is read from them, and what each bad one is told."""

import copy
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.api import ChatRequest, parse_chat, warning_header
from orchestrator.api_errors import ApiError, error_body, rate_limited, shown
from stages.front import Turn
from stages.types import Modality, Sampling

PNG = "data:image/png;base64,AAAA"
USER = {"role": "user", "content": "what digit is shown ?"}
VALID: dict[str, Any] = {
    "model": "tiny",
    "messages": [
        {"role": "system", "content": "be brief", "name": "boss"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "what digit"},
                {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}, "uuid": "a"},
                {"type": "text", "text": "is shown ?"},
                {"type": "image_url", "image_url": "https://images.test/1.png"},
                {"type": "video_url", "video_url": {"url": "HTTP://images.test/1.gif"}},
                {"type": "audio_url", "audio_url": {"url": "https://images.test/1.wav"}},
                {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
            ],
        },
        {"role": "assistant", "content": "seven", "refusal": None, "tool_calls": None, "audio": None},
        {"role": "user", "content": ""},
    ],
    "stream": True,
    "stream_options": {"include_usage": True},
    "max_tokens": 7,
    "temperature": 0.5,
    "top_p": 0.9,
    "seed": -1,
    "stop": ["\n", "END"],
    "n": 1,
    "tools": [],
    "tool_choice": "auto",
    "response_format": {"type": "text"},
    "logit_bias": {},
    "presence_penalty": 0,
    "frequency_penalty": 0.0,
    "logprobs": False,
    "user": "someone",
}


def parse(value: object) -> ChatRequest:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return parse_chat(body, known_models={"tiny"}, default_seed=11)


def refusal(value: object) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(value)
    return caught.value


def request(**fields: object) -> dict[str, object]:
    return {"model": "tiny", "messages": [USER], **fields}


def with_part(part: object) -> dict[str, object]:
    content = [{"type": "text", "text": "x"}, part]
    return {"model": "tiny", "messages": [{"role": "user", "content": content}]}


def test_a_full_request_is_read():
    chat = parse(VALID)
    assert chat.turns == (
        Turn(role="system", text="be brief"),
        Turn(role="user", text="what digit\nis shown ?", media=(0, 1, 2, 3, 4)),
        Turn(role="assistant", text="seven"),
        Turn(role="user", text=""),
    )
    assert [item.modality for item in chat.media] == [
        *(Modality.IMAGE, Modality.IMAGE, Modality.VIDEO, Modality.AUDIO, Modality.AUDIO)
    ]
    assert (chat.media[0].url, chat.media[0].detail, chat.media[0].uuid) == (PNG, "low", "a")
    assert chat.media[0].param == "messages[1].content[1].image_url.url"
    assert chat.media[1].param == "messages[1].content[3].image_url"
    assert chat.media[4].url == "data:audio/wav;base64,UklGRg=="
    assert chat.sampling(99) == Sampling(
        max_tokens=7, temperature=0.5, top_p=0.9, seed=2**63 - 1, stop=("\n", "END")
    )
    assert (chat.stream, chat.include_usage, chat.ignored) == (True, True, ())


def test_defaults_are_greedy_and_the_callers_seed_and_limit():
    chat = parse(request())
    assert chat.sampling(32) == Sampling(max_tokens=32, temperature=0.0, top_p=1.0, seed=11, stop=())
    assert (chat.stream, chat.include_usage, chat.media) == (False, False, ())


def test_null_is_the_same_as_absent():
    optional = (
        "stream",
        "stream_options",
        "max_tokens",
        "temperature",
        "top_p",
        "seed",
        "stop",
        "tools",
        "n",
    )
    assert parse(request(**dict.fromkeys(optional))) == parse(request())


@pytest.mark.parametrize(
    ("fields", "max_tokens"),
    [
        ({"max_tokens": 3}, 3),
        ({"max_completion_tokens": 4}, 4),
        ({"max_tokens": 5, "max_completion_tokens": 5}, 5),
        ({"max_tokens": None, "max_completion_tokens": 6}, 6),
    ],
)
def test_both_names_of_the_token_limit_count(fields, max_tokens):
    assert parse(request(**fields)).max_tokens == max_tokens


def test_unknown_fields_are_ignored_and_listed_by_path():
    body = request(top_k=5, best_of=2, stream=True, stream_options={"chunky": 1})
    body["messages"] = [{"role": "user", "content": [{"type": "text", "text": "x", "weight": 2}], "mood": 1}]
    assert parse(body).ignored == (
        *("messages[0].content[0].weight", "messages[0].mood", "stream_options.chunky"),
        *("top_k", "best_of"),
    )


def test_the_warning_header_is_one_short_printable_line():
    header = warning_header(["a\r\nset-cookie: x", "ü" * 500, *map(str, range(20))])
    assert header.startswith("ignored unknown fields: a??set-cookie: x, ??")
    assert header.isascii() and header.isprintable() and len(header) < 300
    assert header.endswith("7 and 12 more")


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        pytest.param(b"", "invalid_json", None, id="empty"),
        pytest.param(b"{", "invalid_json", None, id="cut"),
        pytest.param(b"\xff\xfe", "invalid_json", None, id="no-utf8"),
        pytest.param(b'{"a": NaN}', "invalid_json", None, id="nan"),
        pytest.param(b'{"temperature": 1e999}', "invalid_json", None, id="infinity"),
        pytest.param(b'{"model": "\\ud800"}', "invalid_json", None, id="lone-surrogate"),
        pytest.param(b"[" * 100_000, "invalid_json", None, id="deep-list"),
        pytest.param(b'{"a":' * 30_000, "invalid_json", None, id="deep-object"),
        pytest.param(b"[]", "invalid_type", None, id="no-object"),
        pytest.param({}, "missing_required_parameter", "model", id="no-model"),
        pytest.param({"model": 1}, "invalid_type", "model", id="model-type"),
        pytest.param({"model": "tiny"}, "missing_required_parameter", "messages", id="no-messages"),
        pytest.param(request(messages=[]), "empty_array", "messages", id="empty-messages"),
        pytest.param(request(messages=[USER] * 5_000), "too_many_parts", "messages", id="too-many-messages"),
        pytest.param(b'{"model":' + b"[]," * 100_000, "too_many_values", None, id="too-many-values"),
        pytest.param(request(messages={}), "invalid_type", "messages", id="messages-type"),
        pytest.param(request(messages=["x"]), "invalid_type", "messages[0]", id="message-type"),
        pytest.param(
            request(messages=[USER, {"content": "x"}]),
            *("missing_required_parameter", "messages[1].role"),
            id="no-role",
        ),
        pytest.param(
            request(messages=[{"role": "tool", "content": "x"}]),
            "invalid_value",
            "messages[0].role",
            id="role",
        ),
        pytest.param(
            request(messages=[{"role": "user"}]),
            *("missing_required_parameter", "messages[0].content"),
            id="no-content",
        ),
        pytest.param(
            request(messages=[{"role": "user", "content": []}]),
            *("empty_array", "messages[0].content"),
            id="no-parts",
        ),
        pytest.param(
            request(messages=[{"role": "user", "content": 5}]),
            *("invalid_type", "messages[0].content"),
            id="content-type",
        ),
        pytest.param(
            request(messages=[{"role": "assistant", "content": "x", "tool_calls": [{}]}]),
            *("unsupported_parameter", "messages[0].tool_calls"),
            id="tool-calls",
        ),
        pytest.param(with_part("x"), "invalid_type", "messages[0].content[1]", id="part-type"),
        pytest.param(
            with_part({}), "missing_required_parameter", "messages[0].content[1].type", id="no-type"
        ),
        pytest.param(
            with_part({"type": "text"}),
            "missing_required_parameter",
            "messages[0].content[1].text",
            id="no-text",
        ),
        pytest.param(
            with_part({"type": "text", "text": []}),
            "invalid_type",
            "messages[0].content[1].text",
            id="text-type",
        ),
        pytest.param(
            with_part({"type": "image_url", "image_url": {}}),
            *("missing_required_parameter", "messages[0].content[1].image_url.url"),
            id="no-url",
        ),
        pytest.param(
            with_part({"type": "image_url", "image_url": {"url": 5}}),
            *("invalid_type", "messages[0].content[1].image_url.url"),
            id="url-type",
        ),
        pytest.param(
            with_part({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}),
            *("invalid_url", "messages[0].content[1].image_url.url"),
            id="file-url",
        ),
        pytest.param(
            with_part({"type": "image_url", "image_url": {"url": PNG, "detail": "fine"}}),
            *("invalid_value", "messages[0].content[1].image_url.detail"),
            id="detail",
        ),
        pytest.param(
            with_part({"type": "image_url", "image_url": PNG, "uuid": 4}),
            *("invalid_type", "messages[0].content[1].uuid"),
            id="uuid",
        ),
        pytest.param(
            with_part({"type": "input_audio", "input_audio": {"data": "", "format": "midi"}}),
            *("invalid_value", "messages[0].content[1].input_audio.format"),
            id="audio-format",
        ),
        pytest.param(request(max_tokens=0), "value_below_min", "max_tokens", id="max-tokens-0"),
        pytest.param(request(max_tokens=-5), "value_below_min", "max_tokens", id="max-tokens-negative"),
        pytest.param(request(max_tokens=2**40), "value_above_max", "max_tokens", id="max-tokens-huge"),
        pytest.param(request(max_tokens=True), "invalid_type", "max_tokens", id="max-tokens-bool"),
        pytest.param(request(max_tokens=1.5), "invalid_type", "max_tokens", id="max-tokens-float"),
        pytest.param(
            request(max_completion_tokens="9"),
            "invalid_type",
            "max_completion_tokens",
            id="max-tokens-string",
        ),
        pytest.param(
            request(max_tokens=3, max_completion_tokens=4),
            *("invalid_value", "max_completion_tokens"),
            id="two-limits",
        ),
        pytest.param(request(temperature=2.1), "value_above_max", "temperature", id="temperature"),
        pytest.param(request(temperature="hot"), "invalid_type", "temperature", id="temperature-type"),
        pytest.param(request(top_p=0), "decimal_below_min_value", "top_p", id="top-p-0"),
        pytest.param(request(top_p=1.01), "value_above_max", "top_p", id="top-p"),
        pytest.param(request(seed=2**63), "value_above_max", "seed", id="seed"),
        pytest.param(request(seed=1.0), "invalid_type", "seed", id="seed-type"),
        pytest.param(request(stop=5), "invalid_type", "stop", id="stop-type"),
        pytest.param(request(stop=["a", 5]), "invalid_type", "stop", id="stop-item-type"),
        pytest.param(request(stop=list("abcde")), "array_above_max_length", "stop", id="stop-5"),
        pytest.param(request(stop=""), "invalid_value", "stop", id="stop-empty"),
        pytest.param(request(stream="yes"), "invalid_type", "stream", id="stream-type"),
        pytest.param(
            request(stream_options={"include_usage": True}),
            "invalid_value",
            "stream_options",
            id="options-no-stream",
        ),
        pytest.param(
            request(stream=True, stream_options={"include_usage": 1}),
            *("invalid_type", "stream_options.include_usage"),
            id="include-usage-type",
        ),
    ],
)
def test_bad_bodies_are_told_what_and_where(body, code, param):
    error = refusal(body)
    assert (error.status, error.type, error.code, error.param) == (400, "invalid_request_error", code, param)
    assert json.loads(error_body(error)) == {
        "error": {"message": error.message, "type": error.type, "param": param, "code": code}
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("functions", [{}]),
        ("function_call", {"name": "f"}),
        ("parallel_tool_calls", False),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("response_format", {"type": "json_object"}),
        ("n", 2),
        ("n", True),
        ("logit_bias", {"50256": -100}),
        ("presence_penalty", 0.1),
        ("frequency_penalty", -1),
        ("audio", {"voice": "alloy"}),
        ("modalities", ["text", "audio"]),
        ("prediction", {"type": "content"}),
        ("reasoning_effort", "high"),
        ("store", True),
        ("service_tier", "flex"),
        ("web_search_options", {}),
    ],
)
def test_fields_that_ask_for_what_no_engine_does_are_refused_by_name(name, value):
    error = refusal(request(**{name: value}))
    assert (error.status, error.code, error.param) == (400, "unsupported_parameter", name)
    assert name in error.message


def test_an_unknown_part_type_is_named_with_the_known_ones():
    error = refusal(with_part({"type": "hologram", "hologram": {}}))
    assert error.param == "messages[0].content[1].type"
    for word in ("hologram", "text", "image_url", "video_url", "audio_url", "input_audio"):
        assert word in error.message


def test_an_unknown_model_is_404_and_the_known_ones_are_listed():
    error = refusal(request(model="gpt-9"))
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
    assert "tiny" in error.message


def test_messages_quote_little_of_the_client():
    assert len(refusal(request(model="x" * 100_000)).message) < 250
    assert len(refusal(with_part({"type": "image_url", "image_url": "y" * 100_000})).message) < 250
    assert shown([1, 2]) == "a list of 2" and shown({}) == "an object of 0"


def test_retry_after_is_whole_seconds_and_never_zero():
    assert rate_limited("busy", 0.0).headers["retry-after"] == "1"
    assert rate_limited("busy", 2.1).headers["retry-after"] == "3"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"model":"tiny","messages":[' + b"[]," * 5_000_000 + b"0]}", id="5-million-lists"),
        pytest.param(json.dumps(request(messages=[USER] * 100_000)).encode(), id="100000-messages"),
        pytest.param(json.dumps(request(**{f"x{i}": i for i in range(90_000)})).encode(), id="90000-fields"),
        pytest.param(json.dumps(with_part({"type": "x" * 16_000_000})).encode(), id="16-MB-type"),
        pytest.param(b'{"temperature":' + b"9" * 16_000_000 + b"}", id="16-MB-number"),
    ],
)
def test_huge_bodies_are_answered_within_a_second_of_work(body):
    started_s = time.process_time()
    try:
        parse(body)
    except ApiError as error:
        assert error.status == 400
    assert time.process_time() - started_s < 1.0


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["text", PNG]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*VALID, "url"]) | st.text(), inner)
    ),
    max_leaves=12,
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All ways into a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in inner for found in paths(item, (*path, key)))]


PATHS = [path for path in paths(VALID) if path]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid request with up to three values replaced, removed or repeated, then a byte or two changed."""
    body = copy.deepcopy(VALID)
    for path in draw(st.lists(st.sampled_from(PATHS), min_size=1, max_size=3)):
        holder: Any = body
        try:
            for key in path[:-1]:
                holder = holder[key]
            if draw(st.booleans()):
                holder[path[-1]] = draw(json_values)
            else:
                del holder[path[-1]]
        except (KeyError, IndexError, TypeError):  # an earlier change removed the way
            continue
    raw = bytearray(json.dumps(body).encode())
    for position in draw(st.lists(st.integers(0, len(raw) - 1), max_size=2)):
        raw[position] = draw(st.integers(0, 255))
    return bytes(raw)


@settings(max_examples=400, deadline=None)
@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()) | mutated())
def test_any_bytes_give_a_request_or_a_4xx(body):
    try:
        chat = parse(body)
    except ApiError as error:
        assert 400 <= error.status < 500
        assert json.loads(error_body(error))["error"]["message"]
        return
    assert 0 <= chat.seed < 2**63 and 0.0 <= chat.temperature <= 2.0 and 0.0 < chat.top_p <= 1.0
    assert chat.sampling(32).max_tokens >= 1
    assert sorted(index for turn in chat.turns for index in turn.media) == list(range(len(chat.media)))
    warning_header(chat.ignored).encode("ascii")
