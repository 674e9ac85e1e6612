"""Headers of video files, box by box."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.image_header import ImageHeaderError
from orchestrator.video_header import VideoHeader, is_container, read_video


def box(name: bytes, *parts: bytes, long: bool = False) -> bytes:
    body = b"".join(parts)
    if long:
        return struct.pack(">I4sQ", 1, name, len(body) + 16) + body
    return struct.pack(">I4s", len(body) + 8, name) + body


def track(width: int, height: int) -> bytes:
    return box(b"trak", box(b"tkhd", bytes(76), struct.pack(">II", width << 16, height << 16)))


def mp4(*tracks: bytes, seconds: float = 2.5, version: int = 0, long: bool = False) -> bytes:
    times = struct.pack(">QQIQ" if version else ">IIII", 0, 0, 1000, round(seconds * 1000))
    movie = box(b"moov", box(b"mvhd", bytes([version, 0, 0, 0]), times, bytes(80)), *tracks)
    return box(b"ftyp", b"isom") + box(b"mdat", bytes(50), long=long) + movie


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("long", [False, True])
def test_the_largest_track_and_the_length_are_told(version: int, long: bool) -> None:
    """A sound track has no size; boxes may have their sizes in 64 bits, and times too."""
    data = mp4(track(0, 0), track(640, 360), track(160, 90), version=version, long=long)
    assert is_container(data)
    assert read_video(data) == VideoHeader(kind="mp4", width_px=640, height_px=360, duration_s=2.5)


@pytest.mark.parametrize(("seconds", "frames"), [(0.1, 1), (2.5, 3), (8.0, 8), (90.0, 8), (0.0, 8)])
def test_a_frame_a_second_is_looked_at_and_as_many_as_may_be_where_nothing_is_known(
    seconds: float, frames: int
) -> None:
    assert read_video(mp4(track(64, 48), seconds=seconds)).sampled(8) == frames


def test_matroska_says_nothing_without_being_read() -> None:
    data = b"\x1aE\xdf\xa3" + bytes(40)
    assert is_container(data)
    assert read_video(data) == VideoHeader(kind="matroska")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (mp4(track(0, 0)), "image_malformed"),
        (mp4(track(64, 48))[:-3], "image_truncated"),
        (box(b"ftyp", b"isom") + struct.pack(">I4s", 3, b"free") + bytes(9), "image_malformed"),
        (box(b"ftyp", b"isom") + b"\0\0", "image_truncated"),
    ],
    ids=["no picture", "cut short", "a box smaller than its header", "half a header"],
)
def test_what_is_broken_is_told(data: bytes, code: str) -> None:
    with pytest.raises(ImageHeaderError) as caught:
        read_video(data)
    assert caught.value.code == code


@given(st.binary(max_size=300))
def test_any_bytes_give_a_header_or_an_error(tail: bytes) -> None:
    try:
        read_video(box(b"ftyp", b"isom") + tail)
    except ImageHeaderError:
        return
