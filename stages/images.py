"""Untrusted bytes to pixels."""

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from stages.engines import InvalidWork

_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")
# What Pillow's decoders raise on broken files.
_BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    OverflowError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

# Pillow's default; but it is global, and a truncated image must not be answered as if it were whole.
ImageFile.LOAD_TRUNCATED_IMAGES = False


def decode_frames(data: bytes | memoryview, frames: int, max_pixels: int) -> list[NDArray[np.uint8]]:
    """Return `frames` evenly spaced frames of an image file, each uint8 [height, width, 3].

    Raises:
        InvalidWork: No image of a known format, truncated, empty, or of more than `max_pixels`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise InvalidWork(f"an image of {image.width}×{image.height} pixels is too large")
            count = int(getattr(image, "n_frames", 1))
            return [_frame(image, index * count // frames) for index in range(frames)]
    except _BROKEN as error:
        raise InvalidWork("not an image, or a damaged one") from error


def _frame(image: Image.Image, index: int) -> NDArray[np.uint8]:
    if index != image.tell():
        image.seek(index)
    image.load()
    return np.asarray(image.convert("RGB"), np.uint8)
