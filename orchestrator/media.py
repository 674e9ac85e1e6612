"""Media intake: limits → bytes reserved → bytes read once → what they are, from their headers.

Nothing here decodes a pixel. The gateway's order, cheapest first:

    check_modalities(sources, served)
    async with budget.hold(reserve_bytes(sources)) as grow:
        media = await take_in(sources, limits, fetcher, grow)
"""

import asyncio
import binascii
import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from orchestrator.api_errors import ApiError, invalid_request
from orchestrator.api_messages import MediaSource
from orchestrator.byte_budget import Grow
from orchestrator.fetch import FetchError
from orchestrator.image_header import ImageHeader, ImageHeaderError, read_header
from orchestrator.video_header import is_container, read_video
from stages.types import Modality

FETCHES_AT_ONCE = 4
"""URLs of one request fetched concurrently."""

_OFF_LOOP_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaLimits:
    """What one request may bring.

    Attributes:
        body_bytes: HTTP body, at most.
        items: Images, videos and audio clips, at most.
        total_bytes: Encoded bytes of all items, at most.
        image_px: Declared width × height × frames of one item, at most: what decoding it costs. Still
            images of 40 megapixels take an engine 120 MB for a moment.
        frames: Frames sampled of one animation or video, at most.
        containers: Whether the engine decodes MP4 and Matroska; built-in ones read animations alone.
        fetch_timeout_s: For one URL, redirects included.
    """

    body_bytes: int = 16 * 2**20
    items: int = 64
    total_bytes: int = 32 * 2**20
    image_px: int = 40_000_000
    frames: int = 8
    containers: bool = False
    fetch_timeout_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """One media item in memory.

    Attributes:
        data: The encoded bytes as the client made them.
        sha256: Hex digest of `data`.
        width_px: Of the whole canvas; 0 for audio, and for video of unknown size.
        height_px: Likewise.
        frames: Frames to sample, evenly over those in the file; 1 for a still image, 0 for audio.
    """

    modality: Modality
    data: bytes
    sha256: str
    width_px: int
    height_px: int
    frames: int


class Fetcher(Protocol):
    """What intake needs of `SafeFetcher`."""

    async def fetch(
        self, url: str, *, max_bytes: int, timeout_s: float, on_bytes: Callable[[int], None]
    ) -> bytes:
        """Return the URL's body; `on_bytes` hears of each piece before it is kept, and may refuse it.

        Raises:
            FetchError: With a code and a message for the client.
        """


def check_modalities(sources: Sequence[MediaSource], served: Collection[Modality]) -> None:
    """Refuse media that no live engine of the model reads, before any of it is fetched.

    Raises:
        ApiError: 400, naming the part.
    """
    for source in sources:
        if source.modality not in served:
            known = ", ".join(sorted(served))
            message = f"no engine of this model takes {source.modality} input; it takes: {known}"
            raise invalid_request(message, param=source.param, code="modality_unserved")


def reserve_bytes(sources: Sequence[MediaSource]) -> int:
    """Return the bytes that data: URLs take, as text and decoded; other URLs grow the reservation."""
    return sum(len(source.url) + _decoded_bytes(source.url) for source in sources if _is_inline(source))


async def take_in(
    sources: Sequence[MediaSource], limits: MediaLimits, fetcher: Fetcher, grow: Grow
) -> tuple[Media, ...]:
    """Read every item and find out what it is, in the order of `sources`.

    Args:
        sources: What the request names.
        limits: What it may bring.
        fetcher: Reads http and https URLs.
        grow: Reserves room for what is fetched.

    Raises:
        ApiError: 400 with the path of the part that is too large, broken, unreachable or no image;
            503 when there is no room.
    """
    if len(sources) > limits.items:
        message = f"{len(sources)} media items; at most {limits.items} (policy: admission.limits.images)"
        raise invalid_request(message, param=sources[limits.items].param, code="too_many_media")
    intake = _Intake(limits, fetcher, grow)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(intake.read(source)) for source in sources]
    except ExceptionGroup as group_error:
        raise group_error.exceptions[0] from None
    return tuple(task.result() for task in tasks)


class _Intake:
    """One request's intake: what its items share."""

    def __init__(self, limits: MediaLimits, fetcher: Fetcher, grow: Grow) -> None:
        self._limits = limits
        self._fetcher = fetcher
        self._grow = grow
        self._fetches = asyncio.Semaphore(FETCHES_AT_ONCE)
        self._bytes_left = limits.total_bytes

    async def read(self, source: MediaSource) -> Media:
        if _is_inline(source):
            self._check_size(source, _decoded_bytes(source.url))
            data = await _off_loop(len(source.url), lambda: _decode(source))
            self._count(source, len(data))
        else:
            async with self._fetches:
                data = await self._fetch(source)
        return await _off_loop(len(data), lambda: _inspect(source, data, self._limits))

    async def _fetch(self, source: MediaSource) -> bytes:
        def on_bytes(size_bytes: int) -> None:
            self._count(source, size_bytes)
            self._grow(size_bytes)

        limits = self._limits
        try:
            return await self._fetcher.fetch(
                source.url, max_bytes=limits.total_bytes, timeout_s=limits.fetch_timeout_s, on_bytes=on_bytes
            )
        except FetchError as error:
            raise invalid_request(f"{source.param}: {error}", param=source.param, code=error.code) from None

    def _check_size(self, source: MediaSource, size_bytes: int) -> None:
        if size_bytes > self._limits.total_bytes:
            raise _refusal(source, "media_too_large", self._too_much())

    def _count(self, source: MediaSource, size_bytes: int) -> None:
        self._bytes_left -= size_bytes
        if self._bytes_left < 0:
            raise _refusal(source, "media_too_large", self._too_much())

    def _too_much(self) -> str:
        limit_bytes = self._limits.total_bytes
        return f"the media together exceed {limit_bytes:,} bytes (policy: admission.limits.media_mb)"


def _decode(source: MediaSource) -> bytes:
    head, comma, payload = source.url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise _refusal(source, "invalid_data_url", "expected data:<type>;base64,<bytes>")
    try:
        # Strict: one spelling per content, so nothing is skipped that another decoder would read.
        return binascii.a2b_base64(payload, strict_mode=True)
    except ValueError:
        message = "broken base64; expected the standard alphabet with padding and without line breaks"
        raise _refusal(source, "invalid_base64", message) from None


def _inspect(source: MediaSource, data: bytes, limits: MediaLimits) -> Media:
    if not data:
        raise _refusal(source, "empty_media", "the item has no bytes")
    width_px, height_px, frames = _shape(source, data, limits)
    return Media(
        modality=source.modality,
        data=data,
        sha256=hashlib.sha256(data).hexdigest(),
        width_px=width_px,
        height_px=height_px,
        frames=frames,
    )


def _shape(source: MediaSource, data: bytes, limits: MediaLimits) -> tuple[int, int, int]:
    """Return width, height and frames to sample."""
    if source.modality is Modality.AUDIO:
        return 0, 0, 0
    try:
        if source.modality is Modality.VIDEO and limits.containers and is_container(data):
            video = read_video(data)
            frames = video.sampled(limits.frames)
            header = ImageHeader(
                kind=video.kind, width_px=video.width_px, height_px=video.height_px, frames=frames
            )
        else:
            header = read_header(data)
    except ImageHeaderError as error:
        hint = _VIDEO_HINT if source.modality is Modality.VIDEO and not limits.containers else ""
        raise _refusal(source, error.code, f"{error}{hint}") from None
    _check_pixels(source, header, limits)
    return header.width_px, header.height_px, min(header.frames, limits.frames)


def _check_pixels(source: MediaSource, header: ImageHeader, limits: MediaLimits) -> None:
    if header.width_px * header.height_px * header.frames > limits.image_px:
        size = f"{header.width_px}×{header.height_px} pixels in {header.frames} frame(s)"
        message = f"{size}; at most {limits.image_px:,} are decoded (policy: admission.limits.image_px)"
        raise _refusal(source, "image_too_large", message)


def _refusal(source: MediaSource, code: str, message: str) -> ApiError:
    return invalid_request(f"{source.param}: {message}", param=source.param, code=code)


def _is_inline(source: MediaSource) -> bool:
    return source.url[:5].lower() == "data:"


def _decoded_bytes(url: str) -> int:
    return (len(url) - url.find(",") - 1) * 3 // 4 - url.endswith("=") - url.endswith("==")


_T = TypeVar("_T")


async def _off_loop(size_bytes: int, work: Callable[[], _T]) -> _T:
    """Run work on big inputs in a thread, so that other requests' tokens are not held up."""
    return work() if size_bytes < _OFF_LOOP_BYTES else await asyncio.to_thread(work)


_VIDEO_HINT = (
    "; video is read from animated GIF, WebP and PNG, other containers are not: send frames as images"
)
