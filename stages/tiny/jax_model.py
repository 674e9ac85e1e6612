"""The whole of `tiny` in JAX, for gradients; the same arithmetic as `vision` and the language core.

Parameters are a nested dict: `jax.tree` functions work on it, and `flatten` gives the names of a
weights file.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from stages.tiny.vision import GRID, HEADS, MERGE, PATCH_PX, SOFT_TOKENS
from stages.tiny.vocab import VOCABULARY

Params = Any
"""Nested dicts and lists of float32 arrays."""

Rotations = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Cosines and sines of rotary position embeddings, [1, length, 1, half a head]."""

VISION_WIDTH, VISION_LAYERS = 96, 3
LANGUAGE_WIDTH, LANGUAGE_LAYERS = 128, 3
PROJECTOR_WIDTH = 256
ROPE_BASE = 1e4


def init_params(seed: int) -> Params:
    """Return fresh parameters: matrices scaled by 1/√in, those that end a residual branch by 0.3 more."""
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, scale: float) -> NDArray[np.float32]:
        return rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(scale)

    def block(width: int) -> Params:
        scale = width**-0.5
        return {
            "n1": np.ones(width, np.float32),
            "qkv": matrix(width, 3 * width, scale),
            "o": matrix(width, width, 0.3 * scale),
            "n2": np.ones(width, np.float32),
            "gu": matrix(width, 6 * width, scale),
            "dn": matrix(3 * width, width, 0.3 * (3 * width) ** -0.5),
        }

    patch, merged = PATCH_PX * PATCH_PX * 3, MERGE * MERGE * VISION_WIDTH
    return {
        "pe": matrix(patch, VISION_WIDTH, patch**-0.5),
        "pos": matrix(GRID * GRID, VISION_WIDTH, 0.1),
        "vit": [block(VISION_WIDTH) for _ in range(VISION_LAYERS)],
        "vn": np.ones(VISION_WIDTH, np.float32),
        "pj1": matrix(merged, PROJECTOR_WIDTH, merged**-0.5),
        "pj2": matrix(PROJECTOR_WIDTH, LANGUAGE_WIDTH, PROJECTOR_WIDTH**-0.5),
        "emb": matrix(len(VOCABULARY), LANGUAGE_WIDTH, 0.3),
        "lm": [block(LANGUAGE_WIDTH) for _ in range(LANGUAGE_LAYERS)],
        "ln": np.ones(LANGUAGE_WIDTH, np.float32),
    }


def flatten(params: Params, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (name, array) with names such as `lm.0.qkv`."""
    entries = params.items() if isinstance(params, dict) else enumerate(params)
    for key, value in entries:
        name = f"{prefix}{key}"
        if isinstance(value, dict | list):
            yield from flatten(value, f"{name}.")
        else:
            yield name, value


def encode(params: Params, rgb: jax.Array) -> jax.Array:
    """Return soft tokens, float32 [batch, 9, 128], of images, float32 0 to 255 [batch, 48, 48, 3]."""
    batch, half = rgb.shape[0], GRID // MERGE
    tiles = (rgb / 127.5 - 1).reshape(batch, GRID, PATCH_PX, GRID, PATCH_PX, 3).transpose(0, 1, 3, 2, 4, 5)
    x = tiles.reshape(batch, GRID * GRID, -1) @ params["pe"] + params["pos"]
    for block in params["vit"]:
        x = _block(block, x)
    x = _rms_norm(x, params["vn"]).reshape(batch, half, MERGE, half, MERGE, VISION_WIDTH)
    merged = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, SOFT_TOKENS, -1)
    return jax.nn.gelu(merged @ params["pj1"], approximate=True) @ params["pj2"]


def text_logits(params: Params, soft_tokens: jax.Array, token_ids: jax.Array) -> jax.Array:
    """Return logits [batch, length, vocabulary] at every text position behind the soft tokens."""
    x = jnp.concatenate([soft_tokens, params["emb"][token_ids]], axis=1)
    length = x.shape[1]
    mask = jnp.where(jnp.tril(jnp.ones((length, length))) > 0, 0.0, -1e9)
    for block in params["lm"]:
        x = _block(block, x, mask, _rotations(length))
    return _rms_norm(x[:, SOFT_TOKENS:], params["ln"]) @ params["emb"].T


def answer_loss(params: Params, rgb: jax.Array, token_ids: jax.Array, answer_mask: jax.Array) -> jax.Array:
    """Return the mean cross-entropy of the answers' tokens, teacher forced."""
    logits = text_logits(params, encode(params, rgb), token_ids)[:, :-1]
    target, mask = token_ids[:, 1:], answer_mask[:, 1:]
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), target[..., None], axis=-1)[..., 0]
    return -(log_p * mask).sum() / mask.sum()


def exact_matches(params: Params, rgb: jax.Array, token_ids: jax.Array, answer_mask: jax.Array) -> jax.Array:
    """Return bool [batch]: greedy decoding would give the whole answer.

    Teacher forcing finds this too: the first wrong token is the same.
    """
    best = text_logits(params, encode(params, rgb), token_ids)[:, :-1].argmax(axis=-1)
    return ((best == token_ids[:, 1:]) | (answer_mask[:, 1:] == 0)).all(axis=1)


def _rotations(length: int) -> Rotations:
    half = LANGUAGE_WIDTH // HEADS // 2
    angles = np.outer(np.arange(length), ROPE_BASE ** -(np.arange(half) / half))
    return (
        np.cos(angles)[None, :, None].astype(np.float32),
        np.sin(angles)[None, :, None].astype(np.float32),
    )


def _rotate(x: jax.Array, rotations: Rotations) -> jax.Array:
    cosine, sine = rotations
    low, high = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([low * cosine - high * sine, low * sine + high * cosine], axis=-1)


def _rms_norm(x: jax.Array, gain: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt((x * x).mean(axis=-1, keepdims=True) + 1e-5) * gain


def _block(
    block: Params, x: jax.Array, mask: jax.Array | float = 0.0, rotations: Rotations | None = None
) -> jax.Array:
    batch, length, width = x.shape
    qkv = _rms_norm(x, block["n1"]) @ block["qkv"]
    query, key, value = jnp.split(qkv.reshape(batch, length, 3 * HEADS, width // HEADS), 3, axis=2)
    if rotations is not None:
        query, key = _rotate(query, rotations), _rotate(key, rotations)
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) * (width // HEADS) ** -0.5 + mask
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value)
    x = x + mixed.reshape(batch, length, width) @ block["o"]
    gate, up = jnp.split(_rms_norm(x, block["n2"]) @ block["gu"], 2, axis=-1)
    return x + (jax.nn.silu(gate) * up) @ block["dn"]
