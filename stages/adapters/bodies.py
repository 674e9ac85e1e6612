"""Bodies of requests to engine servers: the client's own, with its media put back in."""

import base64
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from stages.blobs import BlobStore, inlined
from stages.engines import InvalidWork
from stages.types import BlobHandle, Chat, MediaItem, Modality

Json = dict[str, Any]

MEDIA = "media:"
"""Begins what stands in a stored body for the address of a media item; its number follows."""

MEDIA_PARTS = ("image_url", "video_url", "audio_url", "input_audio")
"""Content parts that hold media, each with a field of the same name."""

_decode = msgspec.json.Decoder(Json).decode
_ONE_TOKEN = {"max_tokens": 1, "stream": False}
_PREFILL_DROPS = ("stream_options", "min_tokens", "min_completion_tokens")
_REMOTE_DECODE = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}


def media_parts(messages: list[Any]) -> Iterator[tuple[Json, str]]:
    """Yield the media parts of a chat's messages in order, each with the name of its media field."""
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if part.get("type") in MEDIA_PARTS:
                yield part, part["type"]


def put_address(part: Json, kind: str, address: str) -> None:
    """Set where a media part's bytes are; what else the part says stays."""
    field = "data" if kind == "input_audio" else "url"
    inner = part[kind]
    part[kind] = {**(inner if isinstance(inner, dict) else {}), field: address}


def chat_body(chat: Chat, blobs: BlobStore) -> Json:
    """Return the client's body with media as data: URLs, each named by its content's hash.

    Raises:
        BlobUnavailable: A medium or the body is gone.
    """
    body = _decode(blobs.get(chat.body))
    for part, kind in media_parts(body["messages"]):
        item = chat.items[_number(part[kind])]
        data = base64.b64encode(blobs.get(item.blob)).decode()
        address = data if kind == "input_audio" else f"data:{mime_type(item, data)};base64,{data}"
        put_address(part, kind, address)
        part["uuid"] = item.content_hash
    return body


def unnamed(body: Json) -> Json:
    """Return a body whose media have no names, for servers that may refuse them; changes the body."""
    for part, _ in media_parts(body["messages"]):
        part.pop("uuid", None)
    return body


def encode_body(model: str, item: MediaItem, data: memoryview | bytes) -> Json:
    """Return what an encode server is sent for one media item: the item alone."""
    text = base64.b64encode(data).decode()
    kind = f"{item.modality}_url"
    url = f"data:{mime_type(item, text)};base64,{text}"
    part = {"type": kind, kind: {"url": url}, "uuid": item.content_hash}
    messages = [{"role": "user", "content": [part]}]
    return {"model": model, "messages": messages, "temperature": 0, **_ONE_TOKEN}


def prefill_body(body: Json, ec_params: Json) -> Json:
    """Return the body that makes vLLM prefill it and keep the KV cache for a decode server."""
    kept = {name: value for name, value in body.items() if name not in _PREFILL_DROPS}
    if "max_completion_tokens" in kept:
        kept["max_completion_tokens"] = 1
    return handed_over(kept | _ONE_TOKEN, ec_params)


def handed_over(body: Json, ec_params: Json) -> Json:
    """Return a body of one token with what makes vLLM keep the KV cache for a decode server."""
    return body | _asking(_REMOTE_DECODE, ec_params)


def decode_body(body: Json, kv_params: Json | None, ec_params: Json) -> Json:
    """Return the body that makes vLLM decode, behind a KV cache if there is one, and say its tokens' ids."""
    return body | _asking(kv_params, ec_params)


def _asking(kv_params: Json | None, ec_params: Json) -> Json:
    params = {"kv_transfer_params": kv_params, "ec_transfer_params": ec_params}
    return {"return_token_ids": True, **{name: value for name, value in params.items() if value}}


def stored(params: object, ttl_s: float) -> BlobHandle:
    """Return a connector's parameters as an inlined blob."""
    return inlined(msgspec.json.encode(params), ttl_s)


def restored(blob: BlobHandle, get: Callable[[BlobHandle], memoryview | bytes]) -> Any:
    """Return a connector's parameters as they were stored."""
    return msgspec.json.decode(get(blob))


def mime_type(item: MediaItem, base64_text: str) -> str:
    """Return the type of an item's bytes, by how their base64 begins; engines look at the bytes again."""
    if item.modality is Modality.AUDIO:
        return "audio/wav"
    found = next((kind for start, kind in _STARTS.items() if base64_text.startswith(start)), None)
    return found or ("video/mp4" if item.modality is Modality.VIDEO else "image/png")


def _number(inner: object) -> int:
    address = inner.get("url") or inner.get("data") if isinstance(inner, dict) else inner
    match = re.fullmatch(rf"{MEDIA}(\d+)", str(address))
    if match is None:
        raise InvalidWork("a media part has no media")
    return int(match[1])


_STARTS = {
    "GkXfo": "video/webm",
    "iVBORw0KGgo": "image/png",
    "/9j/": "image/jpeg",
    "R0lGOD": "image/gif",
    "UklGR": "image/webp",
}
