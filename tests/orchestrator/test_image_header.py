"""Headers: held against Pillow, which decodes the same bytes later."""

import io
import struct
import time
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from orchestrator.image_header import ImageHeader, ImageHeaderError, read_header

ENCODINGS = {
    "png": ("PNG", {}, ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    "jpeg": ("JPEG", {}, ("L", "RGB", "CMYK")),
    "jpeg-progressive": ("JPEG", {"progressive": True}, ("L", "RGB")),
    "jpeg-exif": ("JPEG", {"exif": b"Exif\0\0" + b"\xff\xd9" * 30, "comment": b"\xff\xc0"}, ("RGB",)),
    "gif": ("GIF", {}, ("L", "P", "RGB")),
    "webp": ("WEBP", {}, ("RGB", "RGBA")),
    "webp-lossless": ("WEBP", {"lossless": True}, ("RGB", "RGBA")),
    "bmp": ("BMP", {}, ("1", "L", "P", "RGB")),
}
ANIMATIONS = {
    "apng": ("PNG", {}),
    "apng-and-still": ("PNG", {"default_image": True}),
    "gif": ("GIF", {"disposal": 2}),
    "webp": ("WEBP", {"lossless": True}),
    "webp-odd-chunk": ("WEBP", {"lossless": True, "icc_profile": b"odd"}),
}


def encoded(kind: str, options: dict[str, object], images: list[Image.Image]) -> bytes:
    out = io.BytesIO()
    many = {"save_all": True, "append_images": images[1:]} if len(images) > 1 else {}
    images[0].save(out, kind, **options, **many)
    return out.getvalue()


def picture(width: int, height: int, shade: int = 0) -> Image.Image:
    return Image.linear_gradient("L").resize((width, height)).convert("RGB").rotate(shade * 37)


def as_pillow_reads(data: bytes) -> tuple[int, int, int]:
    with Image.open(io.BytesIO(data)) as image:
        return (*image.size, getattr(image, "n_frames", 1))


def read(data: bytes) -> tuple[int, int, int]:
    header = read_header(data)
    return (header.width_px, header.height_px, header.frames)


def png(width: int, height: int, pixels: bytes = b"") -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(pixels))
        + chunk(b"IEND", b"")
    )


def gif(*blocks: bytes, size: tuple[int, int] = (1, 1)) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", *size, 0, 0, 0) + b"".join(blocks) + b";"


def gif_frame(left: int, top: int, width: int, height: int, data: bytes = b"\x02\x02\x44\x01\0") -> bytes:
    return b"," + struct.pack("<HHHHB", left, top, width, height, 0) + data


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(sorted(ENCODINGS)), st.data(), st.integers(1, 90), st.integers(1, 90))
def test_still_images_read_as_pillow_reads_them(encoding, data, width, height):
    kind, options, modes = ENCODINGS[encoding]
    mode = data.draw(st.sampled_from(modes))
    raw = encoded(kind, options, [picture(width, height).convert("L").convert(mode)])
    assert read(raw) == as_pillow_reads(raw) == (width, height, 1)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(ANIMATIONS)), st.integers(2, 6), st.integers(1, 30), st.integers(1, 30))
def test_animations_read_as_pillow_reads_them(animation, frames, width, height):
    kind, options = ANIMATIONS[animation]
    raw = encoded(kind, options, [picture(width, height, index) for index in range(frames)])
    assert read(raw) == as_pillow_reads(raw)


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_every_cut_of_an_image_is_noticed(encoding):
    kind, options, modes = ENCODINGS[encoding]
    raw = encoded(kind, options, [picture(19, 13).convert(modes[-1] if encoding != "png" else "RGB")])
    for size in range(len(raw)):
        with pytest.raises(ImageHeaderError) as caught:
            read_header(raw[:size])
        assert caught.value.code in ("image_truncated", "not_an_image")
        assert caught.value.code == "image_truncated" or size < 16


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"hello", id="text"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", id="svg"),
        pytest.param(b"%PDF-1.7", id="pdf"),
        pytest.param(b"\0\0\0\x20ftypisom", id="mp4"),
        pytest.param(b"RIFF\x24\0\0\0WAVEfmt ", id="wav"),
        pytest.param(b"II*\0" + bytes(20), id="tiff"),
        pytest.param(b"8BPS" + bytes(20), id="psd"),
    ],
)
def test_other_files_are_no_images(raw):
    with pytest.raises(ImageHeaderError) as caught:
        read_header(raw)
    assert caught.value.code == "not_an_image"


def test_the_smallest_image_is_one_pixel():
    assert read(png(1, 1, b"\0\0\0\0")) == (1, 1, 1)
    assert read(gif(gif_frame(0, 0, 1, 1))) == (1, 1, 1)


@pytest.mark.parametrize("raw", [png(0, 5), png(5, 0), gif(gif_frame(0, 0, 0, 0), size=(0, 0))])
def test_an_image_without_area_is_malformed(raw):
    with pytest.raises(ImageHeaderError) as caught:
        read_header(raw)
    assert caught.value.code == "image_malformed"


def test_a_bomb_is_only_measured():
    assert read_header(png(30_000, 30_000)) == ImageHeader(kind="png", width_px=30_000, height_px=30_000)


def test_a_gif_is_as_large_as_its_frames_reach():
    """Pillow enlarges the canvas to each frame it seeks to, so the screen's size proves nothing."""
    raw = gif(gif_frame(0, 0, 1, 1), gif_frame(10, 20, 50_000, 40_000))
    assert read(raw) == (50_010, 40_020, 2)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(png(2, 2)[:33] + png(9, 9)[8:], id="png-second-header"),
        pytest.param(
            b"\xff\xd8" + b"\xff\xc0\0\x0b\x08\0\x01\0\x01\x01\1\x11\0" * 2 + b"\xff\xda\0\x02\xff\xd9",
            id="jpeg-second-header",
        ),
        pytest.param(b"\xff\xd8\xff\xda\0\x02\xff\xd9", id="jpeg-no-header"),
        pytest.param(b"\xff\xd8\xff\xe0\0\x02oops", id="jpeg-no-marker"),
        pytest.param(gif(b"\x99"), id="gif-no-block"),
        pytest.param(gif(), id="gif-no-frame"),
        pytest.param(b"RIFF\x14\0\0\0WEBPEXIF" + bytes(12), id="webp-no-image"),
        pytest.param(b"BM" + bytes(12) + b"\x29" + bytes(39), id="bmp-unknown-header"),
    ],
)
def test_what_decoders_would_read_in_two_ways_is_malformed(raw):
    with pytest.raises(ImageHeaderError) as caught:
        read_header(raw)
    assert caught.value.code == "image_malformed"


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(gif(*[gif_frame(0, 0, 1, 1)] * 600_000), id="gif-frames"),
        pytest.param(gif(gif_frame(0, 0, 1, 1, b"\x02" + b"\x01\x01" * 4_000_000)), id="gif-blocks"),
        pytest.param(gif(*[b"!\xfe\0"] * 2_000_000), id="gif-comments"),
        pytest.param(png(1, 1)[:33] + b"\0\0\0\0tEXt\0\0\0\0" * 600_000, id="png-chunks"),
        pytest.param(png(1, 1)[:-12] + bytes(8_000_000), id="png-no-end"),
        pytest.param(b"\xff\xd8" + b"\xff" * 8_000_000, id="jpeg-fill"),
        pytest.param(b"\xff\xd8" + b"\xff\xe1\0\x02" * 2_000_000, id="jpeg-segments"),
        pytest.param(b"RIFF\0\x12\x7a\0WEBPVP8X" + bytes(8_000_000), id="webp-chunks"),
    ],
)
def test_hostile_structures_cost_little(raw):
    started_s = time.process_time()
    with pytest.raises(ImageHeaderError):
        read_header(raw)
    assert time.process_time() - started_s < 0.25


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([*sorted(ENCODINGS)]), st.data())
def test_any_damage_gives_a_header_or_an_image_error(encoding, data):
    kind, options, modes = ENCODINGS[encoding]
    raw = bytearray(
        encoded(kind, options, [picture(9, 7).convert(modes[-1] if encoding != "png" else "RGB")])
    )
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(2, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        header = read_header(bytes(raw))
    except ImageHeaderError:
        return
    assert header.width_px >= 1 and header.height_px >= 1 and header.frames >= 1
