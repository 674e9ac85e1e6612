"""A chat request: its body read and checked as vLLM does, and what of it the engine needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from stages.emulator.config import EmulatorConfig
from stages.emulator.continuation import digest_of
from stages.emulator.ec_transfer import check_ec_params
from stages.emulator.errors import EngineError, wrong_shape, wrong_value
from stages.emulator.media import MEDIA_PARTS, Json, MediaCache, Medium, read_medium
from stages.emulator.transfer import KvOrder, kv_order
from stages.emulator.vocabulary import (
    AUDIO_PAD,
    IM_END,
    IM_START,
    IMAGE_PAD,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
    tokenize,
)

_PADS = {"image": IMAGE_PAD, "video": VIDEO_PAD, "audio": AUDIO_PAD}


class StreamOptions(msgspec.Struct):
    """See OpenAI; `continuous_usage_stats` is vLLM's."""

    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class ChatBody(msgspec.Struct, kw_only=True):
    """The fields of a chat request that an emulated engine looks at; it takes any others for granted."""

    messages: list[Json]
    model: str | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    temperature: float | None = None
    seed: int | None = None
    n: int | None = 1
    stop: str | list[str] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = None
    kv_transfer_params: Json | None = None
    ec_transfer_params: Json | None = None


BodyT = TypeVar("BodyT", bound=ChatBody)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What an engine is to do.

    Attributes:
        prompt: Token ids, media as placeholders.
        media: In order.
        temperature: See `digest_of`; likewise `seed`.
        max_tokens: Of the completion; ≥ 1.
        min_tokens: No end before so many.
        stop: Strings that end the text, which does not have them.
        kv: What to do with the KV cache.
    """

    prompt: list[int]
    media: tuple[Medium, ...]
    max_tokens: int
    temperature: float = 0.0
    seed: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    kv: KvOrder | None = None

    def digest(self, contents: Sequence[str]) -> int:
        """Return the digest of the prompt if embeddings of these contents are in it."""
        return digest_of(self.prompt, contents, self.temperature, self.seed)


_body = msgspec.json.Decoder(ChatBody)


def read_chat(data: bytes) -> ChatBody:
    """Return a request's body.

    Raises:
        EngineError: It is no JSON, or a field has the wrong type.
    """
    return read_as(_body, data)


def read_as(decoder: msgspec.json.Decoder[BodyT], data: bytes) -> BodyT:
    """Return a request's body of one kind; see `read_chat`."""
    try:
        body = decoder.decode(data)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        raise wrong_shape("body" + path.rstrip("`"), message) from None
    except msgspec.DecodeError as error:
        raise wrong_shape("body", f"JSON decode error: {error}", "json_invalid") from None
    if body.stream_options and not body.stream:
        raise wrong_value("Stream options can only be defined when `stream=True`.", "stream_options")
    return body


def work_of(body: ChatBody, config: EmulatorConfig, cache: MediaCache) -> Work:
    """Return what an engine is to do for a request.

    Raises:
        EngineError: As vLLM refuses it, or because the request breaks the contract between engines.
    """
    check_model(body.model, config)
    check_ec_params(body.ec_transfer_params, config)
    order = kv_order(body.kv_transfer_params, config)
    _check_sampling(body, order, config)
    prompt, media = _rendered(body.messages, config, cache)
    return Work(
        prompt=prompt,
        media=media,
        max_tokens=_max_tokens(body, len(prompt), config),
        temperature=body.temperature or 0.0,
        seed=body.seed,
        min_tokens=body.min_tokens,
        ignore_eos=body.ignore_eos,
        stop=tuple([body.stop] if isinstance(body.stop, str) else body.stop or ()),
        kv=order,
    )


def check_model(model: str | None, config: EmulatorConfig) -> None:
    """Raise EngineError if a request is for another model."""
    if model and model != config.model:
        told = f"The model `{model}` does not exist. Valid aliases: {config.model}."
        raise EngineError(told, 404, "NotFoundError", "model")


def rendered_tokens(messages: list[Json], config: EmulatorConfig, cache: MediaCache) -> list[int]:
    """Return the prompt that a chat becomes."""
    return _rendered(messages, config, cache)[0]


def _check_sampling(body: ChatBody, order: KvOrder | None, config: EmulatorConfig) -> None:
    limit = _asked_tokens(body)
    if limit is not None and limit < 1:
        raise wrong_value(f"max_tokens must be at least 1, got {limit}.", "max_tokens", limit)
    if limit is not None and limit > config.max_model_len:
        told = f"max_tokens={limit} cannot be greater than max_model_len={config.max_model_len}."
        raise wrong_value(f"{told} Please request fewer output tokens.", "max_tokens", limit)
    if body.temperature is not None and body.temperature < 0:
        told = f"temperature must be non-negative, got {body.temperature}."
        raise wrong_value(told, "temperature", body.temperature)
    if (body.n or 1) != 1:
        raise wrong_value("This emulated engine gives one answer.", "n", body.n)
    if order and order.keep:
        _check_prefill(body, limit)


def _check_prefill(body: ChatBody, limit: int | None) -> None:
    """A real engine would go on decoding, and whoever reads its stream would never see the parameters."""
    if limit != 1:
        raise wrong_value("Contract: do_remote_decode goes with max_tokens 1.", "max_tokens", limit)
    if body.stream:
        raise wrong_value("Contract: do_remote_decode goes with stream false.", "stream", True)


def _asked_tokens(body: ChatBody) -> int | None:
    return body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens


def _max_tokens(body: ChatBody, prompt_tokens: int, config: EmulatorConfig) -> int:
    limit = config.max_model_len
    if prompt_tokens >= limit:
        told = (
            f"This model's maximum context length is {limit} tokens. However, your prompt contains at least "
            f"{limit + 1} input tokens, which exceeds this limit even without any output tokens. "
            "Please reduce the length of the input prompt."
        )
        raise wrong_value(told, "input_tokens", limit + 1)
    asked = _asked_tokens(body)
    return limit - prompt_tokens if asked is None else min(asked, limit - prompt_tokens)


def _rendered(
    messages: list[Json], config: EmulatorConfig, cache: MediaCache
) -> tuple[list[int], tuple[Medium, ...]]:
    """Return the prompt in ChatML, as Qwen's models have it, and its media."""
    if not messages:
        raise EngineError(
            "Cannot apply chat template to an empty conversation. Provide at least one message."
        )
    reader = _Reader(config, cache)
    for message in messages:
        reader.add(message)
    return [*reader.tokens, IM_START, *tokenize("assistant\n")], tuple(reader.media)


class _Reader:
    """Puts messages together to a prompt."""

    def __init__(self, config: EmulatorConfig, cache: MediaCache) -> None:
        self.tokens: list[int] = []
        self.media: list[Medium] = []
        self._config = config
        self._cache = cache
        self._counts: dict[str, int] = {}

    def add(self, message: Json) -> None:
        if not isinstance(message.get("role"), str):
            raise wrong_shape("body.messages.role", "Field required", "missing")
        self.tokens += [IM_START, *tokenize(message["role"] + "\n")]
        content = message.get("content")
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content or ():
            self._add_part(part)
        for call in message.get("tool_calls") or ():
            self.tokens += tokenize(msgspec.json.encode(call).decode())
        self.tokens += [IM_END, *tokenize("\n")]

    def _add_part(self, part: Any) -> None:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind is None or (kind in MEDIA_PARTS and kind not in part):
            raise wrong_value("Missing 'type' field in multimodal part.", "type")
        if kind in ("text", "input_text", "output_text", "refusal"):
            self.tokens += tokenize(str(part.get("text", "")))
        elif kind in MEDIA_PARTS:
            self._add_medium(part, kind)
        else:
            raise wrong_value(f"Unsupported chat content part type: {kind!r}.", "type", kind)

    def _add_medium(self, part: Json, kind: str) -> None:
        modality = MEDIA_PARTS[kind]
        index, limit = self._counts.get(modality, 0), self._config.media_limits.get(modality, 0)
        self._counts[modality] = index + 1
        if index >= limit:
            raise wrong_value(f"At most {limit} {modality}(s) may be provided in one prompt.", modality)
        medium = read_medium(part, kind, index, self._config, self._cache)
        self.media.append(medium)
        self.tokens += [VISION_START, *[_PADS[modality]] * medium.tokens, VISION_END]
