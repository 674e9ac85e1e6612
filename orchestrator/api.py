"""A chat request's bytes → frozen values, or an `ApiError` that names the field and the remedy.

Fields that engines here cannot honour are refused by name when they ask for something, and accepted
when they ask for what happens anyway (`n: 1`, `tools: []`). Fields nobody knows are ignored and
listed, so that the client sees them in the `x-tercet-warning` header.

The default temperature is 0.0 (greedy, reproducible), where OpenAI's is 1.0.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import msgspec

from orchestrator.api_errors import invalid_request, model_not_found
from orchestrator.api_fields import (
    Json,
    as_list,
    as_object,
    as_text,
    flag,
    integer,
    number,
    required,
    unsupported,
    wrong_type,
)
from orchestrator.api_messages import MediaSource, MessageReader
from stages.front import Turn
from stages.types import Sampling

MAX_VALUES = 200_000
"""JSON values in a body, at most, counted by separators. A 16 MB body of `[],[],…` would otherwise
become 350 MB of Python objects; a prompt that fits any context stays far below."""

_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A valid chat request.

    Attributes:
        turns: Messages in order; `Turn.media` are indices into `media`. Text parts of one message
            are joined by line breaks.
        media: In order of appearance.
        max_tokens: Completion tokens at most, or None if the client named no limit.
        ignored: Paths of fields that nobody knows, in order of appearance.
        body: The whole of it, for engines that read chats themselves; None for others.
    """

    model: str
    turns: tuple[Turn, ...]
    media: tuple[MediaSource, ...]
    stream: bool
    include_usage: bool
    max_tokens: int | None
    temperature: float
    top_p: float
    seed: int
    stop: tuple[str, ...]
    ignored: tuple[str, ...]
    body: dict[str, Json] | None = None

    def sampling(self, default_max_tokens: int) -> Sampling:
        """Return the sampling, with the model's own limit where the client named none."""
        return Sampling(
            max_tokens=default_max_tokens if self.max_tokens is None else self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            stop=self.stop,
        )


def parse_chat(body: bytes, *, known_models: Collection[str], default_seed: int) -> ChatRequest:
    """Parse and check a `POST /v1/chat/completions` body.

    Args:
        body: The body as it came.
        known_models: Names that are served.
        default_seed: Used when the request has none; draw it per request, 0 to 2^63 − 1.

    Raises:
        ApiError: 400, or 404 for an unknown model; nothing else, whatever the bytes.
    """
    fields = as_object(load_body(body), "")
    for name, is_neutral in _UNSUPPORTED.items():
        if name in fields and not is_neutral(fields[name]):
            raise unsupported(name, fields[name])
    model = as_text(required(fields, "model"), "model")
    if model not in known_models:
        raise model_not_found(model, known_models)
    messages = MessageReader()
    messages.read(as_list(required(fields, "messages"), "messages"))
    stream = flag(fields, "stream")
    include_usage = _include_usage(fields.get("stream_options"), stream, messages.ignored)
    messages.ignored.extend(name for name in fields if name not in _KNOWN)
    seed = integer(fields, "seed", -(2**63), 2**63 - 1)
    return ChatRequest(
        model=model,
        turns=tuple(messages.turns),
        media=tuple(messages.media),
        stream=stream,
        include_usage=include_usage,
        max_tokens=max_tokens_of(fields),
        temperature=number(fields, "temperature", 0.0, 2.0, default=0.0),
        top_p=_top_p(fields),
        # Negative seeds are valid for clients; engines key their generator with 63 bits.
        seed=default_seed if seed is None else seed % 2**63,
        stop=_stop(fields.get("stop")),
        ignored=tuple(messages.ignored),
    )


def warning_header(ignored: Collection[str]) -> str:
    """Return the value of `x-tercet-warning`: at most 10 names, printable ASCII, no line breaks."""
    names = [name[:60].encode("ascii", "replace").decode() for name in list(ignored)[:10]]
    printable = ["".join(c if c.isprintable() and c not in '",' else "?" for c in name) for name in names]
    more = f" and {len(ignored) - 10} more" if len(ignored) > 10 else ""
    return f"ignored unknown fields: {', '.join(printable)}{more}"


def load_body(body: bytes) -> Json:
    """Return a body's JSON.

    Raises:
        ApiError: 400: it is none, or there is too much in it.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise invalid_request(f"the body holds more than {MAX_VALUES:,} JSON values", code="too_many_values")
    try:
        return _decode(body)
    except RecursionError:
        raise invalid_request("the body is nested too deeply", code="invalid_json") from None
    except ValueError as error:  # msgspec's errors and UnicodeDecodeError
        raise invalid_request(f"the body is not valid JSON: {error}", code="invalid_json") from None


def _include_usage(options: Json, stream: bool, ignored: list[str]) -> bool:
    if options is None:
        return False
    fields = as_object(options, "stream_options")
    if not stream:
        message = "stream_options is only for streams; set stream to true or leave it out"
        raise invalid_request(message, param="stream_options", code="invalid_value")
    ignored.extend(f"stream_options.{name}" for name in fields if name != "include_usage")
    return flag(fields, "include_usage", "stream_options.include_usage")


def max_tokens_of(fields: Mapping[str, Json]) -> int | None:
    """Return the completion tokens at most, by the field's old name or its new one."""
    old = integer(fields, "max_tokens", 1, 2**31 - 1)
    new = integer(fields, "max_completion_tokens", 1, 2**31 - 1)
    if old is not None and new is not None and old != new:
        message = "max_tokens and max_completion_tokens differ; send one of them"
        raise invalid_request(message, param="max_completion_tokens", code="invalid_value")
    return old if new is None else new


def _top_p(fields: Mapping[str, Json]) -> float:
    value = number(fields, "top_p", 0.0, 1.0, default=1.0)
    if value == 0.0:
        message = "top_p must be above 0 and at most 1; for greedy choice set temperature to 0"
        raise invalid_request(message, param="top_p", code="decimal_below_min_value")
    return value


def _stop(value: Json) -> tuple[str, ...]:
    if value is None:
        return ()
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise wrong_type("stop", "a string or a list of strings", value)
    if len(items) > 4:
        message = f"stop has {len(items)} strings; at most 4 are possible"
        raise invalid_request(message, param="stop", code="array_above_max_length")
    if "" in items:
        message = "stop has an empty string, which would end every answer at once"
        raise invalid_request(message, param="stop", code="invalid_value")
    return tuple(items)


def _among(*neutral: Json) -> Callable[[Json], bool]:
    """Accept null and these values, told apart by type: true is not 1."""
    kinds = [(type(value), value) for value in neutral]
    return lambda value: value is None or any(type(value) is kind and value == same for kind, same in kinds)


# Field → does this value ask for nothing? Everything else in it is refused by name.
_UNSUPPORTED: Mapping[str, Callable[[Json], bool]] = {
    "audio": _among(),
    "frequency_penalty": _among(0, 0.0),
    "function_call": _among("none", "auto"),
    "functions": _among([]),
    "logit_bias": _among({}),
    "logprobs": _among(False),
    "modalities": _among(["text"]),
    "moderation": _among(),
    "n": _among(1),
    "parallel_tool_calls": _among(True),
    "prediction": _among(),
    "presence_penalty": _among(0, 0.0),
    "reasoning_effort": _among("none"),
    "response_format": _among({"type": "text"}),
    "service_tier": _among("auto", "default"),
    "store": _among(False),
    "tool_choice": _among("none", "auto"),
    "tools": _among([]),
    "top_logprobs": _among(0),
    "verbosity": _among("medium"),
    "web_search_options": _among(),
}

# The last row means nothing to an engine; clients may send it to any server.
_KNOWN = frozenset(
    {
        *("model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens"),
        *("temperature", "top_p", "seed", "stop"),
        *_UNSUPPORTED,
        *("user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
    }
)
