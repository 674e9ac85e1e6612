"""Row operations whose result for a row does not depend on the rows beside it.

A matrix product rounds differently with the shape that the BLAS library sees, and some kernels also with
the row's place in it. So products run on row tiles of fixed sizes (see `RowTiles`), and the products of
attention have one shape for every row. Reductions run over the last axis only, whose length is
fixed by the model. docs/adr/0003-batch-invariance.md has the reasons and the figures.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

BASE_TILE_ROWS = 8
"""At this height every OpenBLAS kernel family tried gives a row the same bits at every place."""

_CANDIDATE_ROWS = (64, 32, 16, BASE_TILE_ROWS, 4)


class RowTiles:
    """Multiplies rows by a weight in tiles of a few fixed heights that all give the same bits.

    Attributes:
        sizes: Heights, the largest first.
    """

    def __init__(self, sizes: Sequence[int] = (BASE_TILE_ROWS,)) -> None:
        self.sizes = tuple(sorted(sizes, reverse=True))

    @classmethod
    def verified(cls, weights: Sequence[Array]) -> "RowTiles":
        """Return the heights at which this machine's kernels agree bit for bit with the base height.

        The order of a kernel's additions follows from the shapes alone, so agreement of every place
        of a tile on random numbers, for each weight shape of the model, is agreement on all numbers.
        """
        agreeing = [size for size in _CANDIDATE_ROWS if all(_agrees(size, weight) for weight in weights)]
        return cls(agreeing or (BASE_TILE_ROWS,))

    def padded(self, rows: Array) -> Array:
        """Return [n, d] with rows of zeros behind, up to a whole number of the smallest tiles."""
        smallest = self.sizes[-1]
        count, width = rows.shape
        if count % smallest == 0:
            return np.array(rows, np.float32, order="C")
        out = np.zeros((-(-count // smallest) * smallest, width), np.float32)
        out[:count] = rows
        return out

    def linear(self, rows: Array, weight: Array) -> Array:
        """Multiply padded rows [n, in] by [in, out]: as many of the larger tiles as fit, then the smaller."""
        count, width = rows.shape
        out = np.empty((count, weight.shape[1]), np.float32)
        start = 0
        for size in self.sizes:
            tiles = (count - start) // size
            if tiles:
                stop = start + tiles * size
                source, target = rows[start:stop], out[start:stop]
                np.matmul(
                    source.reshape(tiles, size, width),
                    weight,
                    out=target.reshape(tiles, size, target.shape[1]),
                )
                start = stop
        return out


def _agrees(size: int, weight: Array) -> bool:
    """Whether rows at every place of a tile of `size` get the bits they get first in a base tile."""
    rng = np.random.Generator(np.random.Philox(key=size))
    rows = rng.standard_normal((size, weight.shape[0]), np.float32)
    padding = (-size) % BASE_TILE_ROWS
    base = np.concatenate([rows, rng.standard_normal((padding, rows.shape[1]), np.float32)])
    expected = np.matmul(base.reshape(-1, BASE_TILE_ROWS, rows.shape[1]), weight).reshape(len(base), -1)
    turned = np.roll(rows, 1, axis=0)
    return bool(
        np.array_equal(rows @ weight, expected[:size])
        and np.array_equal(np.roll(turned @ weight, -1, axis=0), expected[:size])
    )


def rms_norm(x: Array, gain: Array, eps: np.float32) -> Array:
    """Return x / sqrt(mean(x²) + eps) · gain over the last axis (Zhang and Sennrich, arXiv:1910.07467)."""
    out: Array = x * x
    scale: Array = np.add.reduce(out, axis=-1, keepdims=True)
    scale *= np.float32(1 / x.shape[-1])
    scale += eps
    np.sqrt(scale, out=scale)
    np.divide(x, scale, out=out)
    out *= gain
    return out


def silu_gate(gate_up: Array) -> Array:
    """Return silu(gate) · up of [..., 2 f] whose first half is the gate (Shazeer, arXiv:2002.05202).

    A gate below about -88 overflows exp to infinity, which gives the right 0; callers that treat
    floating-point warnings as errors should ignore this one.
    """
    half = gate_up.shape[-1] // 2
    gate = gate_up[..., :half]
    out: Array = np.negative(gate)
    np.exp(out, out=out)
    out += np.float32(1)
    np.divide(gate, out, out=out)
    out *= gate_up[..., half:]
    return out


def causal_mask(positions: NDArray[np.intp], tiles: int, tile: int) -> Array:
    """Return 0 where a row may look and -inf behind its own position, [rows, 1, tiles, 1, tile]."""
    hidden = np.arange(tiles * tile) > positions[:, None]
    mask: Array = np.where(hidden, np.float32(-np.inf), np.float32(0))
    return mask.reshape(len(positions), 1, tiles, 1, tile)


def attend(query: Array, keys: Array, values: Array, mask: Array) -> Array:
    """Let each row attend to the places of the cache that its mask leaves open.

    Each (row, head, KV tile) is a product of the same shape wherever it is computed, and the tiles of a
    row are added from the first to the last, so a row's bits depend on its query and its own past
    alone: neither on the rows beside it nor on the cache's length behind it.

    Args:
        query: [rows, kv_heads, 1, group, head_dim], scaled, C-contiguous.
        keys: [rows or 1, kv_heads, tiles, tile, head_dim]; unused places hold finite numbers.
        values: As `keys`.
        mask: As `causal_mask` makes it.

    Returns:
        [rows, kv_heads, group, head_dim].
    """
    scores: Array = np.matmul(query, keys.swapaxes(-1, -2))
    scores += mask
    scores -= scores.max(axis=(2, 4), keepdims=True)
    np.exp(scores, out=scores)
    mixed = _sum_tiles(np.matmul(scores, values))
    mixed /= _sum_tiles(np.add.reduce(scores, axis=-1, keepdims=True))
    return mixed


def _sum_tiles(parts: Array) -> Array:
    # Not a reduction over the axis: numpy may then add in an order that depends on the shape.
    total: Array = parts[:, :, 0]
    for tile in range(1, parts.shape[2]):
        total = total + parts[:, :, tile]
    return total


def rope_table(positions: int, head_dim: int, theta: float) -> tuple[Array, Array]:
    """Return cosines and sines of rotary positions, each [positions, head_dim / 2] (arXiv:2104.09864)."""
    frequency = theta ** -(np.arange(0, head_dim, 2) / head_dim)
    angle = np.outer(np.arange(positions), frequency)
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def rotate(x: Array, cos: Array, sin: Array, pair_axis: int) -> None:
    """Rotate pairs of elements in place.

    Args:
        x: [rows, heads, 2, d/2] with pair_axis -2, or [rows, heads, d/2, 2] with pair_axis -1.
        cos: As one head of x, each cosine at both elements of its pair.
        sin: As `cos`, negated at the first element.
    """
    swapped = np.flip(x, pair_axis) * sin
    x *= cos
    x += swapped
