"""vLLM's scale-out requests: a chat rendered to tokens (`/render`), tokens to go on from (`/generate`)."""

import base64
import binascii
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from stages.emulator.chat import ChatBody, StreamOptions, Work, check_model, work_of
from stages.emulator.config import EmulatorConfig
from stages.emulator.ec_transfer import check_ec_params
from stages.emulator.errors import wrong_shape, wrong_value
from stages.emulator.media import Json, MediaCache, Medium
from stages.emulator.transfer import kv_order
from stages.emulator.vocabulary import VISION_START


class Placeholder(msgspec.Struct):
    """Positions [offset, offset + length) of a prompt that stand for a media item."""

    offset: int
    length: int


class Features(msgspec.Struct):
    """Media of a rendered prompt by modality, in order; `kwargs_data` is base64 that only engines read."""

    mm_hashes: dict[str, list[str]]
    mm_placeholders: dict[str, list[Placeholder]]
    kwargs_data: dict[str, list[str]]


class SamplingParams(msgspec.Struct, kw_only=True, omit_defaults=True):
    """vLLM's, as far as an emulated engine looks at them; `max_tokens` is as many as there is room for."""

    max_tokens: int | UnsetType = UNSET
    min_tokens: int = 0
    temperature: float = 1.0
    seed: int | None = None
    ignore_eos: bool = False
    stop: list[str] = []
    n: int = 1


class TokensBody(msgspec.Struct, kw_only=True):
    """Body of `/inference/v1/generate`."""

    token_ids: list[int]
    sampling_params: SamplingParams
    features: Features | None = None
    model: str | None = None
    output_mode: str = "tokens"
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = None
    kv_transfer_params: Json | None = None
    ec_transfer_params: Json | None = None


class _Kept(msgspec.Struct, array_like=True):
    """What `kwargs_data` holds of a medium."""

    content: str
    grid: tuple[int, int, int]


_OMITTED_TOKENS = 16
"""The `max_tokens` that vLLM's render leaves out, since it is the class's default."""

_body = msgspec.json.Decoder(TokensBody)


def rendered(body: ChatBody, name: str, config: EmulatorConfig, cache: MediaCache) -> Json:
    """Return what `/v1/chat/completions/render` makes of a chat; `name` is the request's.

    Raises:
        EngineError: As vLLM refuses it.
    """
    work = work_of(body, config, cache)
    sampling = SamplingParams(
        max_tokens=UNSET if work.max_tokens == _OMITTED_TOKENS else work.max_tokens,
        min_tokens=work.min_tokens,
        temperature=work.temperature,
        seed=work.seed,
        ignore_eos=work.ignore_eos,
        stop=list(work.stop),
    )
    return {
        "request_id": f"chatcmpl-{name}",
        "token_ids": work.prompt,
        "features": _features(work) if work.media else None,
        "sampling_params": sampling,
        "model": body.model,
        "reasoning_parser_kwargs": None,
        "output_mode": "tokens",
        "stream": bool(body.stream),
        "stream_options": body.stream_options if body.stream else None,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
    }


def read_tokens(data: bytes) -> TokensBody:
    """Return a body of `/inference/v1/generate`.

    Raises:
        EngineError: It is no JSON, or a field has the wrong type.
    """
    try:
        body = _body.decode(data)
    except msgspec.DecodeError as error:
        raise wrong_shape("body", str(error)) from None
    if not body.token_ids:
        raise wrong_shape("body.token_ids", "List should have at least 1 item", "too_short")
    return body


def work_behind(body: TokensBody, config: EmulatorConfig) -> Work:
    """Return what an engine is to do for tokens that it is to go on from.

    Raises:
        EngineError: As vLLM refuses it, or because the request breaks the contract between engines.
    """
    check_model(body.model, config)
    check_ec_params(body.ec_transfer_params, config)
    sampling, order = body.sampling_params, kv_order(body.kv_transfer_params, config)
    room = config.max_model_len - len(body.token_ids)
    max_tokens = room if sampling.max_tokens is UNSET else sampling.max_tokens
    if order and order.keep and (max_tokens != 1 or body.stream):
        raise wrong_value("Contract: do_remote_decode goes with max_tokens 1 and no stream.", "max_tokens")
    if max_tokens > room or room < 1:
        told = f"The prompt and max_tokens exceed the maximum model length of {config.max_model_len}."
        raise wrong_value(told, "token_ids", len(body.token_ids))
    if max_tokens < 1:
        raise wrong_value(f"max_tokens must be at least 1, got {max_tokens}.", "max_tokens")
    return Work(
        prompt=body.token_ids,
        media=_media(body),
        max_tokens=max_tokens,
        temperature=sampling.temperature,
        seed=sampling.seed,
        min_tokens=sampling.min_tokens,
        ignore_eos=sampling.ignore_eos,
        stop=tuple(sampling.stop),
        kv=order,
    )


def _features(work: Work) -> Json:
    """Return what is known of the media; each stands behind its own `VISION_START`."""
    offsets = [at + 1 for at, token in enumerate(work.prompt) if token == VISION_START]
    features: dict[str, dict[str, list[Any]]] = {"mm_hashes": {}, "mm_placeholders": {}, "kwargs_data": {}}
    for medium, offset in zip(work.media, offsets, strict=True):
        kept = base64.b64encode(msgspec.json.encode(_Kept(medium.content, medium.grid))).decode()
        span = {"offset": offset, "length": medium.tokens}
        for name, value in (("mm_hashes", medium.key), ("mm_placeholders", span), ("kwargs_data", kept)):
            features[name].setdefault(medium.modality, []).append(value)
    return features


def _media(body: TokensBody) -> tuple[Medium, ...]:
    """Return the media in the order in which they stand in the prompt."""
    features = body.features
    if features is None:
        return ()
    try:
        found = [
            (span.offset, _medium(modality, key, span.length, kept))
            for modality, keys in features.mm_hashes.items()
            for key, span, kept in zip(
                keys, features.mm_placeholders[modality], features.kwargs_data[modality], strict=True
            )
        ]
    except (KeyError, ValueError, binascii.Error) as error:
        raise wrong_shape("body.features", f"Not as /render gave them: {error}") from None
    if any(offset + medium.tokens > len(body.token_ids) for offset, medium in found):
        raise wrong_shape("body.features", "mm_placeholders must remain within the token_ids sequence")
    return tuple(medium for _, medium in sorted(found, key=lambda each: each[0]))


def _medium(modality: str, key: str, tokens: int, kept: str) -> Medium:
    known = msgspec.json.decode(base64.b64decode(kept, validate=True), type=_Kept)
    return Medium(modality=modality, key=key, content=known.content, tokens=tokens, grid=known.grid)
