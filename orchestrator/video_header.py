"""Size and length of video files, from their structure alone: estimates for engines that decode them."""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.image_header import ImageHeaderError

MAX_BOXES = 10_000
"""Boxes of an MP4 looked at, at most."""

_MATROSKA = b"\x1aE\xdf\xa3"
_BOX = struct.Struct(">I4s")
_HOLDERS = (b"moov", b"trak", b"mdia")
_FIXED_POINT = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoHeader:
    """What a file says of itself.

    Attributes:
        kind: `mp4` (QuickTime too) or `matroska` (WebM too).
        width_px: Of the largest track; 0 if unknown, as of Matroska.
        height_px: Likewise.
        duration_s: 0.0 if unknown, as of Matroska and of files that are written while they play.
    """

    kind: str
    width_px: int = 0
    height_px: int = 0
    duration_s: float = 0.0

    def sampled(self, most: int) -> int:
        """Return the frames that engines may look at: one a second if the length is known, else `most`."""
        return min(most, max(1, math.ceil(self.duration_s))) if self.duration_s else most


def is_container(data: bytes) -> bool:
    """Return whether these bytes begin like a video file."""
    return data[4:8] == b"ftyp" or data.startswith(_MATROSKA)


def read_video(data: bytes) -> VideoHeader:
    """Return what a file says of itself. Nothing is decoded, and what is behind the headers is not looked at.

    Raises:
        ImageHeaderError: It is cut short or broken, or has no picture.
    """
    if data.startswith(_MATROSKA):
        return VideoHeader(kind="matroska")
    try:
        return _mp4(data)
    except struct.error:  # read past the end
        raise ImageHeaderError("image_truncated", "the file ends within a header") from None


def _mp4(data: bytes) -> VideoHeader:
    """MP4 (ISO/IEC 14496-12): the lengths in `mvhd`, the sizes in each track's `tkhd`."""
    width, height, duration_s = 0.0, 0.0, 0.0
    for name, body, end in _boxes(data):
        if name == b"mvhd":
            duration_s = _duration_s(data, body)
        elif name == b"tkhd":
            wide, high = (side / _FIXED_POINT for side in struct.unpack_from(">II", data, end - 8))
            width, height = max((width, height), (wide, high), key=lambda size: size[0] * size[1])
    if not width * height:
        raise ImageHeaderError("image_malformed", "no track of the file has a picture")
    return VideoHeader(kind="mp4", width_px=round(width), height_px=round(height), duration_s=duration_s)


def _boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, beginning of the content and end of each box, those within `moov` after it."""
    offset = 0
    for _ in range(MAX_BOXES):
        if offset >= len(data):
            return
        size, name = _BOX.unpack_from(data, offset)
        body = offset + _BOX.size
        if size == 1:
            size = struct.unpack_from(">Q", data, body)[0]
            body += 8
        end = offset + size if size else len(data)
        if end < body:
            raise ImageHeaderError("image_malformed", f"a box of {size} bytes")
        if end > len(data):
            raise ImageHeaderError("image_truncated", "the file ends within a box")
        yield name, body, end
        offset = body if name in _HOLDERS else end
    raise ImageHeaderError("image_malformed", "too many boxes")


def _duration_s(data: bytes, body: int) -> float:
    long = data[body] == 1
    scale, duration = struct.unpack_from(">IQ" if long else ">II", data, body + (20 if long else 12))
    unknown = duration == (2**64 - 1 if long else 2**32 - 1)
    return 0.0 if unknown or not scale else duration / scale
