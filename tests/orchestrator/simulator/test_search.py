"""search(): one budget and one algorithm for every policy."""

import pickle
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.scaling import SCALERS
from orchestrator.core.scaling.hpa import HpaParams
from orchestrator.simulator.compare import compare_found
from orchestrator.simulator.foresight import foreseen, needs
from orchestrator.simulator.scenario import load_subject
from orchestrator.simulator.search import search
from orchestrator.simulator.spaces import SPACES, Knob
from stages.types import Stage
from tests.orchestrator.simulator.test_simulate import POLICY, TRACE


@pytest.fixture(scope="module")
def subject():
    """A minute of the burst."""
    whole = load_subject(POLICY, TRACE)
    return replace(whole, workload=whole.workload.slice(60.0, 130.0))


KNOBS = [knob for space in SPACES.values() for knob in space.knobs.values()]


@given(st.sampled_from(KNOBS), st.floats(0.0, 1.0))
def test_a_knob_goes_from_cheap_to_safe_and_back(knob, share):
    assert knob.at(0.0) == pytest.approx(knob.cheap)
    assert knob.at(1.0) == pytest.approx(knob.safe)
    assert knob.share(knob.at(share)) == pytest.approx(share, abs=1e-6)


def test_every_policy_has_a_space():
    assert set(SPACES) == set(SCALERS) - {"static-best"}
    assert all(len(space.knobs) <= 4 for space in SPACES.values())


@pytest.mark.parametrize("name", [n for n in SPACES if SCALERS[n].live and n != "periodic"])
def test_a_search_starts_at_the_defaults(name, subject):
    """What a policy leaves to another parameter, such as hpa's encode_target, is that one's default."""
    space, defaults = SPACES[name], SCALERS[name].params()
    started = space.params(
        replace(subject, control=replace(subject.control, scaling="static")), starts(space)
    )
    for field in space.knobs:
        default = getattr(defaults, field, None)
        if default is not None:
            assert getattr(started, field) == pytest.approx(default)


def starts(space):
    return {name: knob.start for name, knob in space.knobs.items()}


@pytest.mark.parametrize("name", ["hpa", "oracle", "static-best"])
def test_a_search_keeps_its_budget_and_the_cheapest_that_attains(name, subject):
    heard = []
    found = search(subject, name, trials=4, goal=0.5, tried=heard.append)
    assert tuple(heard) == found.trials
    assert 1 <= len(found.trials) <= 4
    attained = [t.summary.gpu_hours for t in found.trials if t.summary.attainment >= 0.5]
    assert found.best.summary.gpu_hours == min(attained)
    assert pickle.loads(pickle.dumps(found)).best.point == found.best.point


def test_where_nothing_attains_the_nearest_is_best(subject):
    found = search(subject, "hpa", trials=3, goal=1.1)
    assert not found.best.attained
    assert found.best.summary.attainment == max(t.summary.attainment for t in found.trials)


def test_equal_seeds_find_the_same(subject):
    first, second = (search(subject, "modserve", trials=3, seed=3) for _ in range(2))
    assert [t.point for t in first.trials] == [t.point for t in second.trials]


def test_a_policy_without_knobs_is_tried_once(subject):
    assert len(search(subject, "static", trials=5).trials) == 1


def test_an_oracle_foresees_what_it_is_judged_on(subject):
    """hpa keeps its parameters; the oracle keeps its factors and sees the other work's needs."""
    other = replace(subject, workload=subject.workload.slice(0.0, 30.0))
    compared = compare_found(subject, other, ["oracle", "hpa"], trials=2, seed=0)
    assert len(compared["oracle"].found.params(other).times_s) == 1
    assert isinstance(compared["hpa"].found.params(other), HpaParams)
    assert compared["hpa"].summary.groups["all"].requests == len(other.workload)


def test_an_oracle_holds_what_will_be_needed_soon(subject):
    """A minute ahead: the highest of a window and the two after it; a factor moves all of them."""
    plain, held = needs(subject), foreseen(subject, ahead_s=60.0)
    for stage in Stage:
        expected = [max(plain[stage][i : i + 3]) for i in range(len(plain[stage]))]
        assert list(held.counts[stage]) == expected
    doubled = foreseen(subject, encode=2.0)
    assert all(a >= b for a, b in zip(doubled.counts[Stage.ENCODE], plain[Stage.ENCODE], strict=True))


def test_a_knob_starts_within_its_ends():
    for knob in KNOBS:
        low, high = sorted((knob.cheap, knob.safe))
        assert low <= knob.start <= high
    assert Knob(cheap=0.0, safe=1.0, start=0.5).share(2.0) == 1.0
