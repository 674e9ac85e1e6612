"""Size and frame count of PNG, JPEG, GIF, WebP and BMP bytes, from their structure alone.

A parser of our own rather than Pillow's lazy `Image.open`, for three reasons: no byte of a payload is
ever inflated or allocated for (Pillow's WebP plug-in makes the decoder, canvas and all, at open, and
its PNG plug-in inflates text and colour profiles); the cost is bounded whatever the file claims
(Pillow counts a GIF's frames in a loop without end); and a file that was cut short is found before it
costs an engine anything. Tests hold it against Pillow. Pillow still decodes, in the encode stage.

Every function returns in time proportional to the headers, at most `MAX_BLOCKS` small steps.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

MAX_BLOCKS = 100_000
"""Data blocks of a GIF at most: 25 MB of full ones, some 20 ms."""

MAX_SEGMENTS = 10_000
"""Blocks, chunks or segments walked at most, whatever the kind; a GIF frame takes two or three."""

_TAIL_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """What a file says of itself.

    Attributes:
        kind: `png`, `jpeg`, `gif`, `webp` or `bmp`.
        width_px: Canvas width, at least 1; for GIF it spans every frame, as decoders enlarge it.
        height_px: Canvas height, at least 1.
        frames: Frames in the file, 1 for a still image.
    """

    kind: str
    width_px: int
    height_px: int
    frames: int = 1


class ImageHeaderError(ValueError):
    """Not an image of a known kind, cut short, or broken in its structure.

    Attributes:
        code: `not_an_image`, `image_truncated` or `image_malformed`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def read_header(data: bytes) -> ImageHeader:
    """Return what the file says of itself; its kind is known by its first bytes alone.

    Raises:
        ImageHeaderError: See there. Damage inside compressed pixels is found only by decoding.
    """
    for magic, reader in _READERS.items():
        if data.startswith(magic):
            header = _whole(reader, data)
            if header.width_px < 1 or header.height_px < 1:
                raise _malformed(f"{header.width_px}×{header.height_px} pixels")
            return header
    raise ImageHeaderError("not_an_image", "not a PNG, JPEG, GIF, WebP or BMP file")


def _whole(reader: Callable[[bytes], ImageHeader], data: bytes) -> ImageHeader:
    try:
        return reader(data)
    except (struct.error, IndexError):  # read past the end
        raise _truncated("it ends within a header") from None


def _png(data: bytes) -> ImageHeader:
    """PNG (ISO/IEC 15948) and APNG: IHDR, then chunks up to the first IDAT, then IEND at the end."""
    length, name, width, height = struct.unpack_from(">I4sII", data, 8)
    if name != b"IHDR" or length != 13:
        raise _malformed("no IHDR at the start")
    offset, animated, default_image = 8 + 25, 0, True
    for _ in range(MAX_SEGMENTS):
        length, name = struct.unpack_from(">I4s", data, offset)
        if name == b"IHDR" or (name == b"acTL" and animated):
            raise _malformed(f"a second {name.decode()}")
        if name == b"acTL":
            animated = _u32(data, offset + 8)
        elif name == b"fcTL":
            default_image = False  # the still image is the animation's first frame
        elif name == b"IDAT":
            break
        offset += 12 + length
    else:
        raise _malformed("too many chunks")
    if data.rfind(b"\0\0\0\0IEND\xaeB`\x82", max(offset, len(data) - _TAIL_BYTES)) < 0:
        raise _truncated("there is no IEND")
    # APNG's frames may come beside the still image, which decoders then count too.
    frames = animated + default_image if 0 < animated <= 2**31 else 1
    return ImageHeader(kind="png", width_px=width, height_px=height, frames=frames)


def _jpeg(data: bytes) -> ImageHeader:
    """JPEG (ITU-T T.81, B.2): marker segments up to the first scan, EOI somewhere behind it."""
    offset, size = 2, None
    for _ in range(MAX_SEGMENTS):
        if data[offset] != 0xFF:
            raise _malformed(f"no marker at byte {offset}")
        marker = data[offset + 1]
        if marker == 0xFF:  # fill byte
            offset += 1
        elif marker == _SOS:
            break
        elif marker in _BARE_MARKERS:
            offset += 2
        else:
            if marker in _SOF_MARKERS:
                if size is not None:
                    raise _malformed("two frame headers")
                size = struct.unpack_from(">HH", data, offset + 5)
            offset += 2 + _u16_big(data, offset + 2)
    if size is None:
        raise _malformed("no frame header before the first scan")
    if data.rfind(b"\xff\xd9", max(offset, len(data) - _TAIL_BYTES)) < 0:
        raise _truncated("there is no EOI marker")
    return ImageHeader(kind="jpeg", width_px=size[1], height_px=size[0])


def _gif(data: bytes) -> ImageHeader:
    """GIF89a: the logical screen, then blocks up to the trailer; each image descriptor is a frame."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    offset, frames, blocks_left = 13 + _colour_table_bytes(flags), 0, MAX_BLOCKS
    for _ in range(MAX_SEGMENTS):
        separator = data[offset]
        if separator == _GIF_TRAILER:
            break
        if separator == _GIF_IMAGE:
            left, top, wide, high, flags = struct.unpack_from("<HHHHB", data, offset + 1)
            width, height = max(width, left + wide), max(height, top + high)
            frames += 1
            offset += 11 + _colour_table_bytes(flags)
        elif separator == _GIF_EXTENSION:
            offset += 2
        else:
            raise _malformed(f"no block at byte {offset}")
        offset, blocks_left = _gif_data_end(data, offset, blocks_left)
    else:
        raise _malformed("too many blocks")
    if not frames:
        raise _malformed("no frame")
    return ImageHeader(kind="gif", width_px=width, height_px=height, frames=frames)


def _gif_data_end(data: bytes, offset: int, blocks_left: int) -> tuple[int, int]:
    while length := data[offset]:
        offset += 1 + length
        blocks_left -= 1
        if blocks_left < 0:
            raise _malformed("too many data blocks")
    return offset + 1, blocks_left - 1


def _webp(data: bytes) -> ImageHeader:
    """WebP (RFC 9649): one VP8 or VP8L chunk, or VP8X with a canvas and ANMF chunks as frames."""
    if data[8:12] != b"WEBP":
        raise ImageHeaderError("not_an_image", "a RIFF file that is not WebP")
    end = 8 + _u32_little(data, 4)
    if end > len(data):
        raise _truncated(f"{end} bytes announced, {len(data)} received")
    width, height = _webp_canvas(data)
    animated = data[12:16] == b"VP8X" and data[20] & 2
    offset, frames = 12, 0
    for _ in range(MAX_SEGMENTS):
        if offset + 8 > end:
            return ImageHeader(
                kind="webp", width_px=width, height_px=height, frames=frames if animated else 1
            )
        frames += data[offset : offset + 4] == b"ANMF"
        length = _u32_little(data, offset + 4)
        offset += 8 + length + (length & 1)
    raise _malformed("too many chunks")


def _webp_canvas(data: bytes) -> tuple[int, int]:
    name = data[12:16]
    if name == b"VP8X":  # 24 bits each, less one
        return 1 + (_u32_little(data, 24) & 0xFFFFFF), 1 + (_u32_little(data, 26) >> 8)
    if name == b"VP8L" and data[20] == 0x2F:  # 14 bits each, less one
        bits = _u32_little(data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if name == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":  # 14 bits each, beside 2 bits of scale
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise _malformed("no image chunk at the start")


def _bmp(data: bytes) -> ImageHeader:
    """BMP: the OS/2 header has 16-bit sizes, all later ones 32-bit; a negative height is top-down."""
    pixels_at, header_bytes = struct.unpack_from("<II", data, 10)
    if header_bytes == _BMP_CORE_BYTES:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    elif header_bytes in _BMP_INFO_BYTES:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    else:
        raise _malformed(f"a header of {header_bytes} bytes")
    width, height = abs(width), abs(height)
    # Rows are padded to 4 bytes; of run-length encoding (1, 2) only decoding knows the end.
    row_bytes = (width * bits + 31) // 32 * 4
    if compression in (0, 3) and pixels_at + row_bytes * height > len(data):
        raise _truncated(f"{width}×{height} pixels announced, {len(data)} bytes received")
    return ImageHeader(kind="bmp", width_px=width, height_px=height)


def _colour_table_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _truncated(why: str) -> ImageHeaderError:
    return ImageHeaderError("image_truncated", f"the image is cut short: {why}")


def _malformed(why: str) -> ImageHeaderError:
    return ImageHeaderError("image_malformed", f"the image is malformed: {why}")


def _u32(data: bytes, offset: int) -> int:
    value: int = struct.unpack_from(">I", data, offset)[0]
    return value


def _u32_little(data: bytes, offset: int) -> int:
    value: int = struct.unpack_from("<I", data, offset)[0]
    return value


def _u16_big(data: bytes, offset: int) -> int:
    value: int = struct.unpack_from(">H", data, offset)[0]
    return value


_SOS = 0xDA
# Start of frame, baseline to lossless; C4, C8 and CC are tables and extensions.
_SOF_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})

_GIF_TRAILER, _GIF_IMAGE, _GIF_EXTENSION = 0x3B, 0x2C, 0x21

_BMP_CORE_BYTES = 12
_BMP_INFO_BYTES = frozenset({40, 52, 56, 64, 108, 124})

_READERS: Mapping[bytes, Callable[[bytes], ImageHeader]] = {
    b"\x89PNG\r\n\x1a\n": _png,
    b"\xff\xd8\xff": _jpeg,
    b"GIF87a": _gif,
    b"GIF89a": _gif,
    b"RIFF": _webp,
    b"BM": _bmp,
}
