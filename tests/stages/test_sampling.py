"""Sampling is a pure function of the logits, the seed and the token's index."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.sampling import nucleus, sample, uniform
from stages.types import Sampling

LOGITS = np.log(np.array([0.05, 0.5, 0.3, 0.1, 0.05], np.float32))


def draws(count, **settings):
    sampling = Sampling(max_tokens=1, **settings)
    return [sample(LOGITS, sampling, index) for index in range(count)]


def test_zero_temperature_takes_the_likeliest_and_of_equals_the_lowest():
    sampling = Sampling(max_tokens=1)
    assert sample(LOGITS, sampling, 0) == 1
    assert sample(np.array([1, 3, 3], np.float32), sampling, 0) == 1


def test_draws_follow_the_distribution():
    count = Counter(draws(3000, temperature=1.0, seed=7))
    shares = [count[token] / 3000 for token in range(5)]
    np.testing.assert_allclose(shares, np.exp(LOGITS), atol=0.03)


def test_top_p_leaves_out_the_tail():
    """0.5 + 0.3 reach 0.75: the rest is never drawn, and the two keep their ratio."""
    count = Counter(draws(2000, temperature=1.0, top_p=0.75, seed=1))
    assert set(count) == {1, 2}
    assert count[1] / 2000 == pytest.approx(0.5 / 0.8, abs=0.03)


def test_a_tiny_top_p_is_greedy():
    assert set(draws(200, temperature=2.0, top_p=1e-6)) == {1}


def test_low_temperature_sharpens():
    cold, warm = draws(500, temperature=0.3, seed=2), draws(500, temperature=1.5, seed=2)
    assert cold.count(1) > warm.count(1)


def test_seed_and_index_decide_the_draw():
    assert draws(50, temperature=1.0, seed=3) == draws(50, temperature=1.0, seed=3)
    assert draws(50, temperature=1.0, seed=3) != draws(50, temperature=1.0, seed=4)
    assert len({uniform(5, index) for index in range(1000)}) == 1000


@given(seed=st.integers(-(2**63), 2**64), index=st.integers(0, 10**6))
def test_any_seed_gives_a_draw_below_one(seed, index):
    assert 0.0 <= uniform(seed, index) < 1.0


@given(
    st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40),
    st.floats(0.05, 2.0),
    st.floats(1e-3, 1.0),
    st.floats(0, 1, exclude_max=True),
)
def test_the_draw_is_within_the_nucleus(logits, temperature, top_p, draw):
    """The likelier tokens together weigh less than top_p."""
    logits = np.array(logits, np.float32)
    token = nucleus(logits, temperature, top_p, draw)
    mass = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    mass /= mass.sum()
    assert mass[mass > mass[token]].sum() < top_p + 1e-9
