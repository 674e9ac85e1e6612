"""The vision encoder computes what its papers say, and the same bits for the same picture."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.tiny.data import draw_samples, heldout_digits
from stages.tiny.vision import TinyVision, preprocess, resize
from stages.tiny.weights import WEIGHTS_PATH, load_weights

WEIGHTS = load_weights()
VISION = TinyVision(WEIGHTS)


def pictures(seed, count):
    return [sample.rgb for sample in draw_samples(count, seed, heldout_digits())]


def textbook(rgb):
    """One float64 pass over a 48×48 picture, head by head, patch by patch."""
    w = {name: array.astype(np.float64) for name, array in WEIGHTS.items()}
    pixels = rgb / 127.5 - 1

    def norm(x, gain):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * gain

    patches = [pixels[r : r + 8, c : c + 8].reshape(-1) for r in range(0, 48, 8) for c in range(0, 48, 8)]
    x = np.array(patches) @ w["pe"] + w["pos"]
    for layer in range(3):
        n1, qkv, o, n2, gu, dn = (w[f"vit.{layer}.{part}"] for part in ("n1", "qkv", "o", "n2", "gu", "dn"))
        query, key, value = np.split(norm(x, n1) @ qkv, 3, axis=1)
        heads = []
        for head in (slice(i, i + 24) for i in range(0, 96, 24)):
            score = np.exp(query[:, head] @ key[:, head].T / np.sqrt(24))
            heads.append(score / score.sum(1, keepdims=True) @ value[:, head])
        x = x + np.concatenate(heads, axis=1) @ o
        gate, up = np.split(norm(x, n2) @ gu, 2, axis=1)
        x = x + (gate / (1 + np.exp(-gate)) * up) @ dn
    grid = norm(x, w["vn"]).reshape(6, 6, 96)
    merged = np.array([grid[r : r + 2, c : c + 2].reshape(-1) for r in (0, 2, 4) for c in (0, 2, 4)])
    inner = merged @ w["pj1"]
    return 0.5 * inner * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3))) @ w["pj2"]


def test_soft_tokens_are_what_the_definitions_give():
    for rgb in map(resize, pictures(11, 8)):
        np.testing.assert_allclose(VISION.encode(rgb), textbook(rgb), atol=2e-4, rtol=1e-3)


def test_soft_tokens_are_nine_rows_of_128():
    soft = VISION.encode(np.zeros((48, 48, 3), np.uint8))
    assert soft.shape == (VISION.tokens, VISION.dim) == (9, 128)
    assert soft.dtype == np.float32
    assert soft.flags.c_contiguous


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(6)))
def test_a_picture_gives_the_same_bits_whatever_was_encoded_before(order):
    drawn = pictures(5, 6)
    assert {i: VISION.encode(drawn[i]).tobytes() for i in order} == ENCODED_IN_ORDER


ENCODED_IN_ORDER = {i: VISION.encode(rgb).tobytes() for i, rgb in enumerate(pictures(5, 6))}


def test_a_picture_gives_the_same_bits_from_many_threads():
    drawn = pictures(5, 6) * 5
    with ThreadPoolExecutor(4) as pool:
        encoded = [soft.tobytes() for soft in pool.map(VISION.encode, drawn)]
    assert encoded == list(ENCODED_IN_ORDER.values()) * 5


def test_a_picture_of_the_native_size_is_untouched():
    rgb = resize(pictures(5, 1)[0])
    assert resize(rgb) is rgb


@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (48, 49), (640, 480)])
def test_any_size_is_resized_to_48_by_48(shape):
    assert (resize(np.full((*shape, 3), 99, np.uint8)) == np.full((48, 48, 3), 99)).all()


def test_patches_are_rows_of_8_by_8_squares_from_minus_1_to_1():
    rgb = np.zeros((48, 48, 3), np.uint8)
    rgb[8:16, 16:24] = 255
    patches = preprocess(rgb)
    assert patches.shape == (36, 192)
    assert (patches[8] == 1).all()
    assert (np.delete(patches, 8, axis=0) == -1).all()


def test_weights_are_contiguous_float32():
    assert all(a.dtype == np.float32 and a.flags.c_contiguous for a in WEIGHTS.values())
    assert WEIGHTS["emb"].shape == (37, 128)
    assert WEIGHTS["lm.2.dn"].shape == (384, 128)


def test_the_weights_file_is_small_enough_for_a_repository():
    assert WEIGHTS_PATH.stat().st_size < 3_000_000


def test_weights_of_another_vocabulary_are_refused(tmp_path):
    np.savez(tmp_path / "other.npz", emb=np.zeros((2, 4), np.float16), vocab=np.array(["a", "b"]))
    with pytest.raises(ValueError, match="another vocabulary"):
        load_weights(tmp_path / "other.npz")


def test_pickled_objects_are_refused(tmp_path):
    np.savez(tmp_path / "objects.npz", vocab=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        load_weights(tmp_path / "objects.npz")
