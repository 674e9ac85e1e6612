"""EfficientNet-Lite0 in numpy: a 224×224 image to the logits of 1,000 ImageNet classes.

Architecture: EfficientNet (Tan and Le, arXiv:1905.11946) in its Lite form, without squeeze and
excitation and with ReLU6. Convolutions pad as TensorFlow's "SAME" does, which the weights come from.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float32]
Weights = Mapping[str, Array]
"""Folded arrays by name: `<layer>.w` and `<layer>.b`, float32.

Layers `stem` [27, 32], `<i>.expand` [in, mid], `<i>.depth` [k, k, mid], `<i>.project` [mid, out] of 16
blocks (the first has no expansion), `head` [320, 1280] and `classes` [1280, 1000].
"""

IMAGE_PX = 224

_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)
_NORM_EPS = 1e-3


def fold(state: Mapping[str, NDArray[Any]]) -> dict[str, Array]:
    """Return the weights of a checkpoint with each batch norm folded into the convolution before it.

    norm(conv(x, w)) = conv(x, w · a) + (β − μ · a), where a = γ / sqrt(σ² + ε).
    """
    folded: dict[str, Array] = {}

    def put(layer: str, kernel: NDArray[Any], norm: str) -> None:
        scale = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + _NORM_EPS)
        folded[f"{layer}.w"] = np.ascontiguousarray(kernel * scale, dtype=np.float32)
        shift = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
        folded[f"{layer}.b"] = shift.astype(np.float32)

    put("stem", state["_conv_stem.weight"].transpose(2, 3, 1, 0).reshape(27, 32), "_bn0")
    for block in range(len(_STRIDES)):
        name = f"_blocks.{block}"
        if block:
            put(f"{block}.expand", state[f"{name}._expand_conv.weight"][:, :, 0, 0].T, f"{name}._bn0")
        depthwise = state[f"{name}._depthwise_conv.weight"][:, 0].transpose(1, 2, 0)
        put(f"{block}.depth", depthwise, f"{name}._bn1")
        put(f"{block}.project", state[f"{name}._project_conv.weight"][:, :, 0, 0].T, f"{name}._bn2")
    put("head", state["_conv_head.weight"][:, :, 0, 0].T, "_bn1")
    folded["classes.w"] = np.ascontiguousarray(state["_fc.weight"].T, dtype=np.float32)
    folded["classes.b"] = state["_fc.bias"].astype(np.float32)
    return folded


def preprocess(rgb: NDArray[np.uint8]) -> Array:
    """Return the central square of uint8 [height, width, 3], as float32 [224, 224, 3] in about −1 to 1."""
    height, width = rgb.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(np.ascontiguousarray(rgb[top : top + side, left : left + side]))
    resized = square.resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BICUBIC)
    return (np.asarray(resized, np.float32) - np.float32(127)) / np.float32(128)


def logits(pixels: Array, weights: Weights) -> Array:
    """Return the class logits, float32 [1000], of `preprocess`ed pixels."""
    x = _relu6(_stem(pixels, weights["stem.w"]) + weights["stem.b"])
    for block, stride in enumerate(_STRIDES):
        x = _block(x, weights, block, stride)
    features = _relu6(_pointwise(x, weights, "head"))
    pooled: Array = features.mean(axis=(0, 1)) @ weights["classes.w"] + weights["classes.b"]
    return pooled


def _block(x: Array, weights: Weights, block: int, stride: int) -> Array:
    """Expand, filter each channel, project; add the input where the shapes agree."""
    hidden = _relu6(_pointwise(x, weights, f"{block}.expand")) if block else x
    hidden = depthwise(hidden, weights[f"{block}.depth.w"], stride)
    hidden += weights[f"{block}.depth.b"]
    out = _pointwise(_relu6(hidden), weights, f"{block}.project")
    return x + out if x.shape == out.shape else out


def depthwise(x: Array, kernel: Array, stride: int) -> Array:
    """Convolve each channel with its own kernel: [h, w, c] and [k, k, c] to [⌈h/s⌉, ⌈w/s⌉, c]."""
    size = kernel.shape[0]
    padded = _pad_same(x, size, stride)
    rows, columns = -(-x.shape[0] // stride), -(-x.shape[1] // stride)
    out = np.zeros((rows, columns, x.shape[2]), np.float32)
    product = np.empty_like(out)
    for i in range(size):
        for j in range(size):
            window = padded[
                i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride
            ]
            np.multiply(window, kernel[i, j], out=product)
            out += product
    return out


def _stem(pixels: Array, kernel: Array) -> Array:
    """Convolve 3×3 with stride 2 as one matrix product over the nine shifted images."""
    padded = _pad_same(pixels, 3, 2)
    side = pixels.shape[0] - 1
    shifted = [padded[i : i + side : 2, j : j + side : 2] for i in range(3) for j in range(3)]
    return np.concatenate(shifted, axis=-1) @ kernel


def _pointwise(x: Array, weights: Weights, layer: str) -> Array:
    out: Array = x.reshape(-1, x.shape[-1]) @ weights[f"{layer}.w"]
    out += weights[f"{layer}.b"]
    return out.reshape(*x.shape[:2], -1)


def _relu6(x: Array) -> Array:
    return np.clip(x, 0, 6, out=x)


def _pad_same(x: Array, size: int, stride: int) -> Array:
    """Pad so that there are ⌈n / stride⌉ windows, the odd pixel at the end."""
    pads = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in x.shape[:2]]
    return np.pad(x, [(pad // 2, pad - pad // 2) for pad in pads] + [(0, 0)])
