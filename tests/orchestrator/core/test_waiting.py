import heapq
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.tagger import tag
from orchestrator.core.types import MediaShape
from orchestrator.core.waiting import (
    Waiting,
    WaitingParams,
    dispatch_key,
    due_s,
    expired,
    isolated_by_rates_s,
)
from stages.types import Modality, Stage


def in_order(waiting, params):
    return sorted(waiting, key=lambda w: dispatch_key(w, params))


PARAMS = WaitingParams(ttft_s=2.0, stretch=5.0, age_s=10.0, priority_s=10.0)


def hop(hop_id="a", arrival_s=0.0, patience_s=2.0, work_s=0.0, priority=0):
    due = arrival_s + patience_s
    return Waiting(
        hop_id=hop_id, arrival_s=arrival_s, due_s=due, deadline_s=due, work_s=work_s, priority=priority
    )


seconds = st.floats(0.0, 100.0)
hops = st.builds(
    hop,
    hop_id=st.uuids().map(str),
    arrival_s=seconds,
    patience_s=st.floats(-10.0, 600.0),
    work_s=st.floats(0.0, 30.0),
    priority=st.integers(-100, 100),
)
many = st.lists(hops, max_size=30, unique_by=lambda w: w.hop_id)


def test_a_tight_request_overtakes_100_loose_ones():
    loose = [hop(f"loose-{n:03}", arrival_s=n / 100, patience_s=60.0) for n in range(100)]
    tight = hop("tight", arrival_s=1.0, patience_s=0.5)
    assert in_order([*loose, tight], PARAMS)[0] == tight


def test_without_deadlines_the_longest_waiting_goes_first():
    a, b = hop("b", arrival_s=0.0), hop("a", arrival_s=0.1)
    assert in_order([b, a], PARAMS) == [a, b]


def test_of_two_with_one_deadline_the_one_with_more_work_left_goes_first():
    small, large = hop("a", patience_s=9.0, work_s=1.0), hop("b", patience_s=9.0, work_s=3.0)
    assert in_order([small, large], PARAMS) == [large, small]


def test_a_short_request_goes_before_a_large_one_with_a_target_of_its_size():
    def by_target(hop_id, isolated_s):
        due = due_s(0.0, isolated_s, PARAMS)
        return Waiting(hop_id=hop_id, arrival_s=0.0, due_s=due, deadline_s=60.0, work_s=isolated_s)

    short, large = by_target("z", 0.1), by_target("a", 2.0)
    assert in_order([large, short], PARAMS) == [short, large]


@pytest.mark.parametrize(
    ("isolated_s", "stretch", "due"),
    [
        pytest.param(0.1, 5.0, 102.0, id="small-gets-the-target"),
        pytest.param(1.0, 5.0, 105.0, id="large-gets-its-stretch"),
        pytest.param(1.0, 0.0, 102.0, id="not-size-normalised"),
    ],
)
def test_due(isolated_s, stretch, due):
    assert due_s(100.0, isolated_s, replace(PARAMS, stretch=stretch)) == due


@given(hops, hops)
def test_nobody_starves(early, late):
    """Whatever its deadline, size and priority, nothing overtakes from more than age + 2·priority behind."""
    bound_s = PARAMS.age_s + 2 * PARAMS.priority_s
    late = late._replace(arrival_s=early.arrival_s + bound_s + 1e-6 + late.arrival_s)
    assert dispatch_key(early, PARAMS) < dispatch_key(late, PARAMS)


@given(hops, hops)
def test_of_equal_priority_nothing_overtakes_from_more_than_age_behind(early, late):
    late = late._replace(
        arrival_s=early.arrival_s + PARAMS.age_s + 1e-6 + late.arrival_s, priority=early.priority
    )
    assert dispatch_key(early, PARAMS) < dispatch_key(late, PARAMS)


@given(many, hops, st.integers(-100, 100))
def test_higher_priority_is_never_later(others, one, priority):
    low, high = (one._replace(hop_id="one", priority=p) for p in sorted((one.priority, priority)))
    assert in_order([*others, high], PARAMS).index(high) <= in_order([*others, low], PARAMS).index(low)


@given(many, hops, st.floats(0.0, 600.0))
def test_an_earlier_due_time_is_never_later(others, one, sooner_s):
    loose, tight = one._replace(hop_id="one"), one._replace(hop_id="one", due_s=one.due_s - sooner_s)
    assert in_order([*others, tight], PARAMS).index(tight) <= in_order([*others, loose], PARAMS).index(loose)


@given(many.flatmap(lambda some: st.tuples(st.just(some), st.permutations(some))))
def test_order_does_not_depend_on_the_order_of_arrival_in_the_list(both):
    some, shuffled = both
    assert in_order(some, PARAMS) == in_order(shuffled, PARAMS)


@given(many)
def test_a_heap_of_keys_gives_the_order_of_dispatch(some):
    heap = [dispatch_key(w, PARAMS) for w in some]
    heapq.heapify(heap)
    popped = [heapq.heappop(heap)[1] for _ in range(len(heap))]
    assert popped == [w.hop_id for w in in_order(some, PARAMS)]


@pytest.mark.parametrize(("now_s", "gone"), [(1.99, False), (2.0, True), (3.0, True)])
def test_expired_at_its_deadline(now_s, gone):
    assert expired(hop(patience_s=2.0), now_s) is gone


@pytest.mark.parametrize(
    ("images", "at_once", "rates", "seconds"),
    [
        pytest.param(0, 4, {Stage.ENCODE: 10.0, Stage.PREFILL: 100.0}, 1.0, id="text"),
        pytest.param(5, 4, {Stage.ENCODE: 10.0, Stage.PREFILL: 100.0}, 0.5 + 2 * 3.0 + 2.5, id="two-rounds"),
        pytest.param(5, 4, {}, 0.5, id="unknown-rates-are-instant"),
    ],
)
def test_isolated_by_rates_s(images, at_once, rates, seconds):
    """Images of 30 tokens, 0.5 s to prepare, and a text of 100."""
    shape = MediaShape(modality=Modality.IMAGE, tokens=30)
    alone = tag(100, [shape] * images, kappa=1, max_tokens=1)
    assert isolated_by_rates_s(alone, rates, images_at_once=at_once, preprocess_s=0.5) == pytest.approx(
        seconds
    )
