"""Row operations whose result for a row does not depend on the rows beside it.

A matrix product rounds differently with the shape that the BLAS library sees, and some kernels also with
the row's place in it. So every product of rows and weights is cut into pieces of one shape, `TILE_ROWS`
rows by `BLOCK_COLUMNS` columns, and the products of attention have one shape for every row. Reductions
run over the last axis only, whose length is fixed by the model.
docs/adr/0003-batch-invariance.md has the reasons and the figures.
"""

from dataclasses import dataclass
from types import EllipsisType

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

TILE_ROWS = 8
"""At this height every OpenBLAS kernel family tried gives a row the same bits at every place."""

BLOCK_COLUMNS = 64
"""Small enough that OpenBLAS multiplies a tile without packing the weight first, where it can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockedWeight:
    """A weight cut into column blocks; may be a memory map.

    Attributes:
        blocks: [blocks, in, BLOCK_COLUMNS], any strides; columns from `width` on are zeros. Twice as
            fast where each block lies together in memory, as `of` lays it.
        width: Columns of the weight.
    """

    blocks: Array
    width: int

    @classmethod
    def of(cls, weight: Array) -> "BlockedWeight":
        """Return a copy of [in, out] whose blocks each lie together."""
        rows, width = weight.shape
        full = np.zeros((rows, -(-width // BLOCK_COLUMNS) * BLOCK_COLUMNS), np.float32)
        full[:, :width] = weight
        return cls(blocks=np.ascontiguousarray(_cut(full)), width=width)

    @classmethod
    def over(cls, weight: Array) -> "BlockedWeight":
        """Return a view of [in, out], so that a memory map stays one; a copy if `out` has a rest."""
        if weight.shape[1] % BLOCK_COLUMNS:
            return cls.of(weight)
        return cls(blocks=_cut(weight), width=weight.shape[1])


def _cut(weight: Array) -> Array:
    return weight.reshape(len(weight), -1, BLOCK_COLUMNS).transpose(1, 0, 2)


def padded(rows: Array) -> Array:
    """Return a copy of [n, d] with rows of zeros behind, up to whole tiles."""
    count, width = rows.shape
    out = np.zeros((-(-count // TILE_ROWS) * TILE_ROWS, width), np.float32)
    out[:count] = rows
    return out


def linear(rows: Array, weight: BlockedWeight) -> Array:
    """Multiply whole tiles of rows [n, in] by a weight: [n, out]."""
    count, width = rows.shape
    # Blocks outside, tiles inside: a block is read once and stays in the cache for all tiles.
    pieces = np.matmul(rows.reshape(1, -1, TILE_ROWS, width), weight.blocks[:, None])
    out: Array = pieces.transpose(1, 2, 0, 3).reshape(count, -1)
    return out[:, : weight.width]


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
    scores -= np.maximum.reduce(scores, axis=(2, 4), keepdims=True)
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


HALVES_SWAPPED = (Ellipsis, slice(None, None, -1), slice(None))
PAIRS_SWAPPED = (Ellipsis, slice(None, None, -1))


def rotate(x: Array, cos: Array, sin: Array, swapped: tuple[EllipsisType | slice, ...]) -> None:
    """Rotate pairs of elements in place.

    Args:
        x: [rows, heads, 2, d/2] with HALVES_SWAPPED, or [rows, heads, d/2, 2] with PAIRS_SWAPPED.
        cos: As one head of x, each cosine at both elements of its pair.
        sin: As `cos`, negated at the first element.
        swapped: The index that exchanges the elements of each pair.
    """
    turned = x[swapped] * sin
    x *= cos
    x += turned
