"""Media in a request: bytes, what they are to the model, and what is kept of them."""

import base64
import binascii
import hashlib
import io
import math
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from PIL import Image

from stages.emulator.config import EmulatorConfig
from stages.emulator.errors import EngineError, wrong_value

Json = dict[str, Any]

MEDIA_PARTS = {"image_url": "image", "video_url": "video", "audio_url": "audio", "input_audio": "audio"}
"""Content parts that hold media, each with a field of the same name, and their modality."""

_DATA_URL = re.compile(r"data:[^,]*;base64,")
_KEPT = 8192
_UNSEEN_PX = 448
"""Of an image that is not fetched."""
_PATCH_PX = 14
_MERGED = 2
_UNIT_PX = _PATCH_PX * _MERGED
_LEAST_PIXELS, _MOST_PIXELS = 4 * _UNIT_PX**2, 16384 * _UNIT_PX**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Medium:
    """One media item.

    Attributes:
        key: Under which embeddings of it are known: the part's `uuid`, else the digest of its content.
        content: Hex sha256 of its bytes.
        tokens: Placeholders in the prompt.
        grid: Patches in time, height and width; (1, 1, 1) if the item is no image.
    """

    modality: str
    key: str
    content: str
    tokens: int
    grid: tuple[int, int, int] = (1, 1, 1)


class MediaCache:
    """What is known of media by key, so that a part may name a `uuid` and bring no bytes.

    Attributes:
        queries: Items looked up; of them `hits` were known.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, Medium] = OrderedDict()
        self.queries = 0
        self.hits = 0

    def find(self, key: str) -> Medium | None:
        """Return what is known under a key."""
        self.queries += 1
        if medium := self._known.get(key):
            self.hits += 1
            self._known.move_to_end(key)
        return medium

    def keep(self, medium: Medium) -> None:
        """Remember a medium, at the cost of the one that was not used for longest."""
        self._known[medium.key] = medium
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)


def read_medium(part: Json, kind: str, index: int, config: EmulatorConfig, cache: MediaCache) -> Medium:
    """Return the medium of a content part.

    Args:
        part: The part; it has a field `kind`.
        kind: A key of `MEDIA_PARTS`.
        index: Of the item among those of its modality.
        config: Says what images and others are worth.
        cache: Of this engine; items go through it.

    Raises:
        EngineError: As vLLM refuses it.
    """
    modality, uuid = MEDIA_PARTS[kind], part.get("uuid")
    if uuid and (known := cache.find(uuid)):
        return known
    if part[kind] is None:
        raise EngineError(f"Cache miss for {modality} at index {index} but data is not provided.")
    content, size = _seen(part[kind], kind, config)
    if not uuid and (known := cache.find(content)):
        return known
    grid = image_grid(*size) if size else (1, 1, 1)
    tokens = (config.image_tokens or math.prod(grid) // _MERGED**2) if size else config.other_media_tokens
    medium = Medium(modality=modality, key=uuid or content, content=content, tokens=tokens, grid=grid)
    cache.keep(medium)
    return medium


def image_grid(width_px: int, height_px: int) -> tuple[int, int, int]:
    """Return the patches of an image in time, height and width.

    Qwen2.5-VL's `smart_resize`: sides are rounded to multiples of 28, and the whole is scaled to between 56²
    and 12.8 million pixels.
    """
    height, width = (round(px / _UNIT_PX) * _UNIT_PX for px in (height_px, width_px))
    if height * width > _MOST_PIXELS:
        by = math.sqrt(height_px * width_px / _MOST_PIXELS)
        height, width = (max(_UNIT_PX, int(px / by / _UNIT_PX) * _UNIT_PX) for px in (height_px, width_px))
    elif height * width < _LEAST_PIXELS:
        by = math.sqrt(_LEAST_PIXELS / (height_px * width_px))
        height, width = (math.ceil(px * by / _UNIT_PX) * _UNIT_PX for px in (height_px, width_px))
    return 1, height // _PATCH_PX, width // _PATCH_PX


def _seen(inner: object, kind: str, config: EmulatorConfig) -> tuple[str, tuple[int, int] | None]:
    """Return the digest of a medium's content and, of an image, width and height in pixels."""
    image = kind == "image_url"
    if kind == "input_audio":
        data = _decoded(str(inner.get("data", "")) if isinstance(inner, dict) else "")
    else:
        url = str(inner.get("url", "") if isinstance(inner, dict) else inner)
        if url.startswith(("http://", "https://")) and config.http_media:
            return hashlib.sha256(url.encode()).hexdigest(), (_UNSEEN_PX, _UNSEEN_PX) if image else None
        data = _inlined(url)
    return hashlib.sha256(data).hexdigest(), _size(data) if image else None


def _size(data: bytes) -> tuple[int, int]:
    """Return width and height in pixels, from the header alone."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise EngineError("Failed to load image: cannot identify image file <_io.BytesIO object>") from None


def _inlined(url: str) -> bytes:
    if url.startswith(("http://", "https://")):
        told = "This emulated engine fetches nothing: media must come as data: URLs"
        raise wrong_value(told, "url", url[:80])
    if not url.startswith("data:"):
        raise EngineError("The URL must be either a HTTP, data or file URL.")
    begin = _DATA_URL.match(url)
    if begin is None:  # vLLM's own answer, status and type
        told = "Only base64 data URLs are supported for now."
        raise EngineError(told, 501, "NotImplementedError")
    return _decoded(url[begin.end() :])


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise EngineError("Non-base64 digit found") from None
