"""One Llama-style decoder for every reference model: rows in, logits out, KV written on the way.

Prefill and decode run the same `forward`: a prefill chunk is a segment of many rows, a decode step has
one segment of one row per request. What a row computes depends on its own sequence alone (see
`numerics`), so a token's KV and logits have the same bits in any chunk, any batch and any retry.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from stages.numerics import (
    HALVES_SWAPPED,
    PAIRS_SWAPPED,
    Array,
    BlockedWeight,
    attend,
    causal_mask,
    linear,
    padded,
    rms_norm,
    rope_table,
    rotate,
    silu_gate,
)

NO_KV: Array = np.empty((0, 2, 0, 0, 0), np.float32)
"""Stands for the slab of a sequence that has none."""


Weight = Array | BlockedWeight


class Rope(StrEnum):
    """Which elements of a head form a rotated pair."""

    HALVES = "halves"
    PAIRS = "pairs"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig:
    """Sizes of a decoder.

    Attributes:
        heads: Query heads; a multiple of `kv_heads`.
        theta: Base of the rotary frequencies.
        max_context: Positions at most.
        kv_tile: Positions of one tile of attention; slabs are whole tiles.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    max_context: int
    theta: float
    rope: Rope = Rope.HALVES
    eps: float = 1e-5
    kv_tile: int = 32

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of float32 keys and values of one position."""
        return self.layers * 2 * self.kv_heads * self.head_dim * 4

    def capacity(self, tokens: int) -> int:
        """Return the positions of the whole tiles that hold `tokens`."""
        return -(-tokens // self.kv_tile) * self.kv_tile


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    """One layer; float32, may be read-only memory maps. q = heads · head_dim, kv = kv_heads · head_dim.

    Matrices are given as [in, out] or as `BlockedWeight`s of that shape, which `Transformer` makes of them.

    Attributes:
        attention_norm: [width].
        qkv: [width, q + 2 kv]: queries, then keys, then values.
        output: [q, width].
        mlp_norm: [width].
        gate_up: [width, 2 hidden]: gate, then up.
        down: [hidden, width].
    """

    attention_norm: Array
    qkv: Weight
    output: Weight
    mlp_norm: Array
    gate_up: Weight
    down: Weight


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerWeights:
    """A decoder's arrays.

    Attributes:
        embedding: [vocabulary, width].
        final_norm: [width].
        head: [width, vocabulary]; `embedding.T` where they are tied.
    """

    embedding: Array
    layers: tuple[LayerWeights, ...]
    final_norm: Array
    head: Weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Consecutive rows of one sequence.

    Attributes:
        slab: The sequence's KV, [layers, 2, kv_heads, capacity, head_dim], as `new_slab` makes it.
        start: Position of the first row; all positions before it are in the slab.
        rows: Input embeddings, [count, width].
    """

    slab: Array
    start: int
    rows: Array


class _Layer:
    """A layer's arrays in the form that `linear` takes."""

    def __init__(self, weights: LayerWeights) -> None:
        self.attention_norm = weights.attention_norm
        self.qkv = _blocked(weights.qkv)
        self.output = _blocked(weights.output)
        self.mlp_norm = weights.mlp_norm
        self.gate_up = _blocked(weights.gate_up)
        self.down = _blocked(weights.down)


def _blocked(weight: Weight) -> BlockedWeight:
    return weight if isinstance(weight, BlockedWeight) else BlockedWeight.over(weight)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """Rows that attend in one call: one segment of any length, or some of one row and as many KV tiles.

    Attributes:
        rows: Their place among all rows.
        slabs: KV per segment, each [layers, 2, kv_heads, tiles, kv_tile, head_dim].
        mask: See `causal_mask`.
    """

    rows: slice
    slabs: tuple[Array, ...]
    mask: Array

    def kv(self, layer: int) -> tuple[Array, Array]:
        """Return keys and values of a layer, each [segments, kv_heads, tiles, kv_tile, head_dim]."""
        if len(self.slabs) == 1:
            keys, values = self.slabs[0][layer, :, None]
            return keys, values
        stacked = np.array([slab[layer] for slab in self.slabs])
        return stacked[:, 0], stacked[:, 1]


# One row's keys and values of one layer up to this size are copied together with those of other rows, so
# that many short sequences attend in one call; beyond it the copy costs more than the call.
_STACK_BYTES = 128 * 1024


class Transformer:
    """The decoder. Holds no state besides the weights; safe to call from several threads."""

    def __init__(self, config: TransformerConfig, weights: TransformerWeights) -> None:
        self.config = config
        self.weights = weights
        half = config.head_dim // 2
        halves = config.rope is Rope.HALVES
        self._pairs = (2, half) if halves else (half, 2)
        self._swapped = HALVES_SWAPPED if halves else PAIRS_SWAPPED
        self._cos, self._sin = _rope_pairs(config)
        self._layers = tuple(_Layer(layer) for layer in weights.layers)
        self._head = _blocked(weights.head)
        self._eps = np.float32(config.eps)
        self._scale = np.float32(config.head_dim**-0.5)

    def new_slab(self, tokens: int) -> Array:
        """Return zeroed KV for `tokens` positions, rounded up to whole tiles."""
        config = self.config
        shape = (config.layers, 2, config.kv_heads, config.capacity(tokens), config.head_dim)
        return np.zeros(shape, np.float32)

    def embed(self, token_ids: Sequence[int]) -> Array:
        """Return a copy of the embeddings of token ids, [len, width]."""
        return self.weights.embedding[np.asarray(token_ids, np.intp)]

    def forward(self, segments: Sequence[Segment]) -> Array:
        """Write the rows' KV into their slabs; return the last layer's output, [rows, width].

        Rows are in the order of the segments. A slab must not be in two segments.
        """
        positions = np.array([at for s in segments for at in range(s.start, s.start + len(s.rows))])
        groups = self._groups(segments, positions)
        cos, sin = self._cos[positions], self._sin[positions]
        x = padded(np.concatenate([s.rows for s in segments]))
        eps = self._eps
        with np.errstate(over="ignore"):
            for index, layer in enumerate(self._layers):
                fused = linear(rms_norm(x, layer.attention_norm, eps), layer.qkv)
                query = self._store(index, fused, segments, cos, sin)
                x += linear(self._mix(index, query, groups, len(x)), layer.output)
                x += linear(silu_gate(linear(rms_norm(x, layer.mlp_norm, eps), layer.gate_up)), layer.down)
        return x[: len(positions)]

    def logits(self, rows: Array) -> Array:
        """Return the logits of outputs of `forward`, [len(rows), vocabulary]."""
        normed = rms_norm(padded(rows), self.weights.final_norm, self._eps)
        return linear(normed, self._head)[: len(rows)]

    def _groups(self, segments: Sequence[Segment], positions: NDArray[np.intp]) -> list[_Group]:
        groups: list[_Group] = []
        start = 0
        for together in _runs([self._stack_key(s) for s in segments]):
            members = segments[together]
            rows = slice(start, start + sum(len(s.rows) for s in members))
            start = rows.stop
            tiles = int(positions[rows.stop - 1]) // self.config.kv_tile + 1
            slabs = tuple(self._tile_view(s.slab, tiles) for s in members)
            mask = causal_mask(positions[rows], tiles, self.config.kv_tile)
            groups.append(_Group(rows=rows, slabs=slabs, mask=mask))
        return groups

    def _stack_key(self, segment: Segment) -> int:
        """Return the KV tiles of a segment that may be stacked with others, 0 for one that may not."""
        tiles = segment.start // self.config.kv_tile + 1
        layer_bytes = tiles * self.config.kv_tile * self.config.kv_bytes_per_token // self.config.layers
        return tiles if len(segment.rows) == 1 and layer_bytes <= _STACK_BYTES else 0

    def _tile_view(self, slab: Array, tiles: int) -> Array:
        config = self.config
        shape = (config.layers, 2, config.kv_heads, tiles, config.kv_tile, config.head_dim)
        return slab[:, :, :, : tiles * config.kv_tile].reshape(shape)

    def _store(self, index: int, fused: Array, segments: Sequence[Segment], cos: Array, sin: Array) -> Array:
        """Rotate, put keys and values into the slabs; return scaled queries [n, kv_heads, 1, group, d]."""
        config, rows = self.config, len(cos)
        heads = fused.reshape(len(fused), -1, config.head_dim)[:rows]
        turned = heads[:, : config.heads + config.kv_heads]
        rotate(turned.reshape(*turned.shape[:2], *self._pairs), cos, sin, self._swapped)
        kv = heads[:, config.heads :].reshape(rows, 2, config.kv_heads, config.head_dim)
        at = 0
        for segment in segments:
            count, start = len(segment.rows), segment.start
            source = kv[at : at + count].transpose(1, 2, 0, 3)
            segment.slab[index, :, :, start : start + count] = source
            at += count
        query = heads[:, : config.heads] * self._scale
        return query.reshape(rows, config.kv_heads, 1, -1, config.head_dim)

    def _mix(self, index: int, query: Array, groups: Sequence[_Group], padded_rows: int) -> Array:
        """Attend group by group: [padded rows, heads · head_dim], zeros behind the last row."""
        config = self.config
        out = np.zeros((padded_rows, config.heads * config.head_dim), np.float32)
        mixed = out.reshape(padded_rows, config.kv_heads, -1, config.head_dim)
        for group in groups:
            mixed[group.rows] = attend(query[group.rows], *group.kv(index), group.mask)
        return out


def _runs(keys: Sequence[int]) -> list[slice]:
    """Return the runs of equal keys; 0 is a run of its own each time."""
    edges = [i for i in range(1, len(keys)) if keys[i] != keys[i - 1] or keys[i] == 0]
    return [slice(a, b) for a, b in zip([0, *edges], [*edges, len(keys)], strict=True)]


def _rope_pairs(config: TransformerConfig) -> tuple[Array, Array]:
    """Return the tables that `rotate` takes, with an axis for the heads: [positions, 1, …]."""
    cos, sin = rope_table(config.max_context, config.head_dim, config.theta)
    pair_axis = -2 if config.rope is Rope.HALVES else -1
    return np.stack([cos, cos], pair_axis)[:, None], np.stack([-sin, sin], pair_axis)[:, None]
