"""EfficientNet-Lite0 in numpy, and its labels as soft tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from stages.smollm2 import effnet, samples
from stages.smollm2.prepare import prepare
from stages.smollm2.tokenizer import SOFT_TOKENS
from stages.smollm2.vision import LabelMixer, SmolVision

pytestmark = pytest.mark.smollm2


@pytest.fixture(scope="module")
def vision():
    return SmolVision(prepare())


@pytest.mark.parametrize(
    ("draw", "label"),
    [
        pytest.param(samples.crossword, "crossword", id="crossword"),
        pytest.param(samples.spider_web, "spider web", id="web"),
        pytest.param(samples.clock, "analog clock", id="clock"),
    ],
)
def test_it_knows_simple_drawings(vision, draw, label):
    best, share = vision.classify(draw(), 1)[0]
    assert best == label
    assert share > 0.5


def test_size_and_shape_of_an_image_do_not_matter(vision):
    drawing = samples.crossword()
    wide = np.pad(drawing, [(0, 0), (200, 200), (0, 0)])
    assert vision.classify(wide, 1) == vision.classify(drawing, 1)
    for shape in ((1, 1, 3), (1, 500, 3), (3, 2, 3)):
        assert vision.encode(np.zeros(shape, np.uint8)).shape == (SOFT_TOKENS, 576)


def test_an_image_gives_the_same_bits_twice(vision):
    assert np.array_equal(vision.encode(samples.clock()), vision.encode(samples.clock()))


@pytest.mark.parametrize(
    ("side", "size", "stride"), [(7, 3, 1), (8, 3, 2), (7, 3, 2), (9, 5, 1), (10, 5, 2), (1, 5, 2)]
)
def test_depthwise_convolution_is_its_definition(side, size, stride):
    """SAME padding: ⌈n / s⌉ windows, the odd pixel at the end."""
    rng = np.random.default_rng(side * size + stride)
    x = rng.standard_normal((side, side, 2)).astype(np.float32)
    kernel = rng.standard_normal((size, size, 2)).astype(np.float32)
    count = -(-side // stride)
    before = max((count - 1) * stride + size - side, 0) // 2
    expected = np.zeros((count, count, 2))
    for row, column, i, j in np.ndindex(count, count, size, size):
        y, z = row * stride + i - before, column * stride + j - before
        if 0 <= y < side and 0 <= z < side:
            expected[row, column] += x[y, z].astype(float) * kernel[i, j]
    np.testing.assert_allclose(effnet.depthwise(x, kernel, stride), expected, atol=1e-5)


DIM, WORDS, LABEL_IDS = 4, 12, [[3], [4, 5], [6, 7, 8], [9, 10, 11, 3, 4, 5, 6, 7]]
EMBEDDING = np.random.default_rng(0).standard_normal((WORDS, DIM)).astype(np.float32)
MIXER = LabelMixer(list("abcd"), LABEL_IDS, [0, 1, 2, 0, 1], EMBEDDING)


@pytest.mark.parametrize("label", range(len(LABEL_IDS)))
def test_a_certain_label_is_its_words_behind_the_lead_in(label):
    certain = np.eye(len(LABEL_IDS), dtype=np.float32)[label]
    ids = LABEL_IDS[label][:SOFT_TOKENS]
    lead_in = [0, 1, 2, 0, 1][len(ids) - 1 :]
    assert np.array_equal(MIXER.mix(certain), EMBEDDING[[*lead_in, *ids]])


@given(npst.arrays(np.float32, len(LABEL_IDS), elements=st.floats(0.0009765625, 1, width=32)))
def test_soft_tokens_lie_between_token_embeddings(odds):
    """Always `SOFT_TOKENS` rows, each a convex combination: the gateway knows the count beforehand."""
    soft = MIXER.mix((odds / odds.sum()).astype(np.float32))
    assert soft.shape == (SOFT_TOKENS, DIM)
    assert soft.dtype == np.float32
    assert (soft <= EMBEDDING.max(axis=0) + 1e-5).all()
    assert (soft >= EMBEDDING.min(axis=0) - 1e-5).all()
