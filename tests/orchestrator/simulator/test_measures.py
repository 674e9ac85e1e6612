"""Statistics of arrivals and tokens, checked where the answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.simulator.measures import (
    counts_in,
    dispersion_within,
    index_of_dispersion,
    intraclass_correlation,
    ks_distance,
    rank_correlation,
)

_NUMBERS = st.lists(st.integers(-5, 5), min_size=1, max_size=30).map(np.array)


def test_poisson_arrivals_neither_cluster_nor_disperse() -> None:
    arrival_s = np.sort(np.random.default_rng(0).random(200_000) * 20_000)
    assert index_of_dispersion(counts_in(arrival_s, 60, 20_000)) == pytest.approx(1, abs=0.25)
    assert dispersion_within(arrival_s, 60, 10) == pytest.approx(1, abs=0.05)
    assert intraclass_correlation(arrival_s, 60, 10) == pytest.approx(0, abs=1e-4)


def test_regular_arrivals_are_less_dispersed_than_poisson() -> None:
    assert dispersion_within(np.arange(0, 6000, 0.5), 60, 10) == pytest.approx(0, abs=0.01)
    assert intraclass_correlation(np.arange(0, 6000, 0.5), 60, 10) == 0.0


def test_all_in_one_cell_is_full_correlation() -> None:
    one_cell = np.repeat(np.arange(100) * 60.0, 20) + 31.0
    assert intraclass_correlation(one_cell, 60, 10) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [
        ([1, 2], [1, 2], 0.0),
        ([1, 2], [3, 4], 1.0),
        ([1, 2, 3, 4], [1, 2, 3, 9], 0.25),
        ([], [], 0.0),
        ([], [1], 1.0),
    ],
)
def test_ks_distance(a: list[int], b: list[int], distance: float) -> None:
    assert ks_distance(np.array(a), np.array(b)) == pytest.approx(distance)


@given(_NUMBERS, _NUMBERS)
def test_ks_distance_is_symmetric_and_a_fraction(a: np.ndarray, b: np.ndarray) -> None:
    assert 0.0 <= ks_distance(a, b) == ks_distance(b, a) <= 1.0


@given(_NUMBERS)
def test_rank_correlation_knows_increasing_from_decreasing(a: np.ndarray) -> None:
    expected = 1.0 if len(np.unique(a)) > 1 else 0.0
    assert rank_correlation(a, a**3) == pytest.approx(expected)
    assert rank_correlation(a, -a) == pytest.approx(-expected)
