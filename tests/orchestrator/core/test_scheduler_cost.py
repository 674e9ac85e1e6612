"""What placement costs beside the cheapest there is."""

import random
import statistics

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from orchestrator.core.scheduler import place
from tests.orchestrator.core import brute, fleets


@given(st.randoms(use_true_random=False))
def test_one_service_that_fits_into_one_group_costs_the_least(rng):
    """Law 11: the search of one group is exact."""
    least, placement = _least_and_placed(rng)
    assume(least is not None)
    assert not placement.unplaced
    assert brute.cost(placement.create) == pytest.approx(least)


def test_small_replicas_leave_large_ones_the_nodes_that_these_need():
    """Five decode replicas of two accelerators fit beside prefill's two of four, in nodes of two."""
    least, placement = _least_and_placed(random.Random(1626))
    assert brute.cost(placement.create) == pytest.approx(least) == 38.4


def _least_and_placed(rng):
    plans, policies, nodes = brute.problem(rng, services=1)
    least = _cheapest(plans, policies, nodes, one_group=True)
    return least, place(plans, policies, fleets.snapshot(nodes))


def test_the_cost_is_near_the_least():
    """Within 10 % on average, for up to two services on up to 12 nodes.

    Measured over these 200 problems, of which 117 have a solution: 0.4 % above the least on average, 17 %
    at most, and the least itself in 96 %; in 3, something stays unplaced that trying everything finds a
    place for. Over 2,000 others, 1,232 of them with a solution: 0.4 %, 64 %, 97 %, and 32.
    """
    rng = random.Random(7)
    ratios, left = [], 0
    for _ in range(200):
        plans, policies, nodes = brute.problem(rng)
        least = _cheapest(plans, policies, nodes)
        placement = place(plans, policies, fleets.snapshot(nodes))
        if least is not None and placement.unplaced:
            left += 1
        elif least is not None:
            ratios.append(brute.cost(placement.create) / least)
    assert len(ratios) > 100
    assert statistics.mean(ratios) < 1.01
    assert left <= 3


def _cheapest(*args, **how):
    try:
        return brute.cheapest(*args, **how)
    except brute.TooLargeError:
        return None
