"""The vision encoder of `tiny` in numpy: a ViT, a 2×2 merge and a projector.

Images are encoded one at a time, always with the same array shapes, so an image gives the same bits
whatever else the process works on.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.tiny.weights import Weights

Array = NDArray[np.float32]

IMAGE_PX = 48
PATCH_PX = 8
GRID = IMAGE_PX // PATCH_PX
MERGE = 2
SOFT_TOKENS = (GRID // MERGE) ** 2
HEADS = 4
NORM_EPS = np.float32(1e-5)


def resize(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the image, uint8 [height, width, 3], as uint8 [48, 48, 3].

    Bilinear with Pillow's antialiasing; the aspect ratio is not kept. 48×48 images are untouched.
    """
    if rgb.shape[:2] == (IMAGE_PX, IMAGE_PX):
        return rgb
    return np.asarray(Image.fromarray(rgb).resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BILINEAR))


def preprocess(rgb: NDArray[np.uint8]) -> Array:
    """Return the patches of an image of any size: float32 [36, 192], pixels from −1 to 1."""
    pixels = resize(rgb).astype(np.float32) / np.float32(127.5) - np.float32(1)
    tiles = pixels.reshape(GRID, PATCH_PX, GRID, PATCH_PX, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(tiles.reshape(GRID * GRID, PATCH_PX * PATCH_PX * 3))


class TinyVision:
    """Images to soft tokens. Holds no state besides the weights; safe to call from several threads."""

    dim = 128
    tokens = SOFT_TOKENS

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._layers = sum(name.startswith("vit.") and name.endswith(".n1") for name in weights)

    def preprocess(self, rgb: NDArray[np.uint8]) -> Array:
        """See the function of this name."""
        return preprocess(rgb)

    def encode(self, rgb: NDArray[np.uint8]) -> Array:
        """Return the soft tokens, float32 [9, 128], of an image, uint8 [height, width, 3]."""
        weights = self._weights
        x = self.preprocess(rgb) @ weights["pe"] + weights["pos"]
        for layer in range(self._layers):
            x = self._block(x, f"vit.{layer}")
        merged = _merge(_rms_norm(x, weights["vn"]))
        return np.ascontiguousarray(_gelu(merged @ weights["pj1"]) @ weights["pj2"])

    def _block(self, x: Array, name: str) -> Array:
        weights = self._weights
        normed = _rms_norm(x, weights[f"{name}.n1"])
        x = x + _attention(normed @ weights[f"{name}.qkv"]) @ weights[f"{name}.o"]
        gate, up = np.split(_rms_norm(x, weights[f"{name}.n2"]) @ weights[f"{name}.gu"], 2, axis=-1)
        hidden: Array = _silu(gate) * up
        return x + hidden @ weights[f"{name}.dn"]


def _rms_norm(x: Array, gain: Array) -> Array:
    scale: Array = np.sqrt((x * x).mean(axis=-1, keepdims=True) + NORM_EPS)
    return x / scale * gain


def _silu(x: Array) -> Array:
    gated: Array = x / (1 + np.exp(-x))
    return gated


def _gelu(x: Array) -> Array:
    """Return the tanh form of GELU, which training uses (Hendrycks and Gimpel, arXiv:1606.08415)."""
    inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x**3)
    activated: Array = np.float32(0.5) * x * (1 + np.tanh(inner))
    return activated


def _attention(qkv: Array) -> Array:
    """Let every patch attend to every patch: [36, 3 · 96] to [36, 96], without a mask."""
    rows, width = qkv.shape[0], qkv.shape[1] // 3
    query, key, value = qkv.reshape(rows, 3, HEADS, width // HEADS).transpose(1, 2, 0, 3)
    scores = query @ key.transpose(0, 2, 1) * np.float32((width // HEADS) ** -0.5)
    weight = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weight /= weight.sum(axis=-1, keepdims=True)
    mixed: Array = weight @ value
    return mixed.transpose(1, 0, 2).reshape(rows, width)


def _merge(x: Array) -> Array:
    """Lay the patches of each 2×2 square side by side: [36, 96] to [9, 4 · 96]."""
    half = GRID // MERGE
    squares = x.reshape(half, MERGE, half, MERGE, -1).transpose(0, 2, 1, 3, 4)
    return squares.reshape(SOFT_TOKENS, -1)
