"""observe(): gateways come and go, and what a service was asked for stays true."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.counts import GONE_S, Backlog, highest
from orchestrator.core.observed import PlacedReplica, ReplicaState
from orchestrator.core.types import StageTag
from orchestrator.totals import ServiceTotals
from stages.types import Modality, Stage
from tests.fakes.looks import Looks, reading

BUDGETS = dict.fromkeys(Stage, 0.5)


def tagged(images=1, text=100):
    return StageTag(
        modalities=frozenset({Modality.TEXT}),
        stages=tuple(Stage),
        item_tokens=(256,) * images,
        prefill_tokens=text + 256 * images,
        context_tokens=text + 256 * images,
        output_tokens=50,
    )


def offer(totals, count, at_s):
    for _ in range(count):
        totals.offered(tagged(), at_s)


def complete(sample):
    return {stage for stage in Stage if sample.stages[stage].complete}


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 79), st.integers(0, 3)), max_size=60).map(
        lambda rows: sorted(rows, key=lambda row: row[1])
    ),
    st.permutations(["a", "b", "c"]),
)
def test_gateways_that_share_the_load_count_what_one_would(offers, order):
    """Sums, and bursts too: work of one window is squared after it was added up. Order does not matter."""
    one, three = ServiceTotals(BUDGETS), [ServiceTotals(BUDGETS) for _ in range(3)]
    alone, together = Looks(one), Looks()
    for tick in range(4):
        for gateway, quarter_s, images in offers:
            if tick * 20 <= quarter_s < (tick + 1) * 20:
                for totals in (one, three[gateway]):
                    totals.offered(tagged(images), quarter_s / 4)
                    totals.started(Stage.PREFILL, 2.0)
                    totals.done(Stage.PREFILL, 100 + images)
                    totals.prefilled(100 + images, images)
                    totals.image_hit(images)
                    totals.completed(50, 0.5, images < 2, quarter_s / 4)
        at_s = (tick + 1) * 5.0
        counters = {name: three["abc".index(name)] for name in order}
        assert together.at(at_s, counters=counters) == alone.at(at_s)


def test_a_gateway_that_dies_takes_nothing_back():
    """Its share of the load is missing for a while, and no longer once it is gone for good."""
    a, b, looks = ServiceTotals(BUDGETS), ServiceTotals(BUDGETS), Looks()
    offer(a, 10, 1.0)
    offer(b, 30, 1.0)
    assert looks.at(5.0, counters={"a": a, "b": b}).requests == 40
    offer(a, 5, 6.0)
    after = looks.at(10.0, counters={"a": a})
    assert (after.requests, complete(after)) == (45, set())
    late = looks.at(5.0 + GONE_S, counters={"a": a})
    assert (late.requests, complete(late)) == (45, set(Stage))


def test_a_gateway_that_comes_back_as_another_counts_from_zero():
    """A restart is a new counter: what it counts is added to what its forerunner had."""
    before, looks = ServiceTotals(BUDGETS), Looks()
    offer(before, 10, 1.0)
    looks.at(5.0, counters={"a.1": before})
    after = ServiceTotals(BUDGETS, 8.0)
    offer(after, 3, 9.0)
    assert looks.at(10.0, counters={"a.2": after}).requests == 13


def test_a_gateway_that_was_only_out_of_sight_goes_on():
    a, b, looks = ServiceTotals(BUDGETS), ServiceTotals(BUDGETS), Looks()
    offer(b, 10, 1.0)
    looks.at(5.0, counters={"a": a, "b": b})
    looks.at(10.0, counters={"a": a})
    offer(b, 10, 11.0)
    back = looks.at(15.0, counters={"a": a, "b": b})
    assert (back.requests, complete(back)) == (20, set(Stage))


@pytest.mark.parametrize("gone_s", [0.0, 2 * GONE_S])
def test_an_old_gateway_that_is_new_to_us_does_not_bring_its_past(gone_s):
    """A day of requests in one tick would look like a burst."""
    a, b, looks = ServiceTotals(BUDGETS), ServiceTotals(BUDGETS), Looks()
    offer(b, 10_000, 1.0)
    if gone_s:
        assert looks.at(5.0, counters={"a": a, "b": b}).requests == 10_000
    known = looks.at(10.0 + gone_s, counters={"a": a}).requests
    assert looks.at(15.0 + gone_s, counters={"a": a, "b": b}).requests == known
    offer(b, 5, 16.0 + gone_s)
    assert looks.at(20.0 + gone_s, counters={"a": a, "b": b}).requests == known + 5


def test_without_any_gateway_there_is_no_sample():
    totals, looks = ServiceTotals(BUDGETS), Looks()
    offer(totals, 10, 1.0)
    looks.at(5.0, counters={"a": totals})
    assert looks.at(10.0, counters={}) is None
    assert looks.at(15.0, counters={"a": totals}).requests == 10


def test_a_gateway_that_does_not_say_what_it_counts_leaves_every_stage_in_doubt():
    assert complete(Looks(ServiceTotals(BUDGETS)).at(5.0, complete=False)) == set()


@pytest.mark.parametrize(
    ("said", "whole"),
    [
        pytest.param([reading(Stage.DECODE, "d")], set(Stage), id="said-all"),
        pytest.param(
            [reading(Stage.DECODE, "d", busy_s=None)], {Stage.ENCODE, Stage.PREFILL}, id="no-seconds"
        ),
        pytest.param([], {Stage.ENCODE, Stage.PREFILL}, id="silent"),
    ],
)
def test_a_replica_that_is_silent_leaves_its_own_stage_in_doubt(said, whole):
    placed = PlacedReplica(replica_id="d", service="s", stage=Stage.DECODE, hardware="h", tp=1, node_id="n")
    looks = Looks(ServiceTotals(BUDGETS))
    assert complete(looks.at(5.0, replicas=[placed], readings={Stage.DECODE: said})) == whole
    starting = replace(placed, state=ReplicaState.STARTING)
    assert complete(looks.at(10.0, replicas=[starting], readings={Stage.DECODE: said})) == set(Stage)


def test_busy_seconds_outlive_their_replica_and_none_has_more_than_passed():
    looks = Looks(ServiceTotals(BUDGETS))

    def busy(at_s, *said):
        readings = {Stage.ENCODE: [reading(Stage.ENCODE, name, busy_s=s) for name, s in said]}
        return looks.at(at_s, readings=readings).stages[Stage.ENCODE].busy_s

    assert busy(5.0, ("a", 90.0)) == 0.0
    assert busy(10.0, ("a", 94.0), ("b", 3.0)) == 7.0
    assert busy(15.0, ("b", 4.0)) == 8.0
    assert busy(20.0, ("b", 4.0), ("c", 500.0)) == 13.0


def test_what_waits_is_added_up_and_decodes_that_run_do_not_wait():
    looks = Looks(ServiceTotals(BUDGETS))
    sample = looks.at(
        5.0,
        waiting={Stage.PREFILL: Backlog(100.0, 2), Stage.DECODE: Backlog(10.0, 1)},
        readings={
            stage: [reading(stage, in_flight=3, pending_tokens=50, total_kv_bytes=100, free_kv_bytes=25)]
            for stage in (Stage.PREFILL, Stage.DECODE)
        },
    )
    prefill, decode = sample.stages[Stage.PREFILL], sample.stages[Stage.DECODE]
    assert (prefill.waiting_units, prefill.waiting_jobs, prefill.running_jobs) == (150.0, 2, 3)
    assert (decode.waiting_units, decode.waiting_jobs, decode.kv_usage) == (10.0, 1, 0.75)


def test_windows_begin_anew_when_the_budget_is_edited():
    """Totals go on; windows of two lengths are never added up."""
    a, b, looks = ServiceTotals(BUDGETS), ServiceTotals(BUDGETS), Looks()
    both = {"a": a, "b": b}
    offer(a, 4, 1.0)
    before = looks.at(5.0, counters=both).stages[Stage.ENCODE]
    a.set_budgets(dict.fromkeys(Stage, 1.0), 5.25)
    offer(a, 4, 6.5)
    mixed = looks.at(10.0, counters=both).stages[Stage.ENCODE]
    assert (mixed.bins, mixed.offered_jobs) == (before.bins, 8)
    b.set_budgets(dict.fromkeys(Stage, 1.0), 10.25)
    offer(a, 4, 12.5)
    after = looks.at(15.0, counters=both).stages[Stage.ENCODE]
    assert (after.bins - before.bins, after.bin_units - before.bin_units) == (4, 4 * 256)


def test_windows_that_no_counter_has_any_more_are_left_out():
    totals, looks = ServiceTotals(BUDGETS), Looks()
    looks.at(0.0, counters={"a": totals})
    for window in range(200):
        offer(totals, 1, window * 0.5)
    seen = looks.at(100.0, counters={"a": totals}).stages[Stage.ENCODE]
    assert 0 < seen.bins < 200
    assert seen.bin_units == seen.bins * 256


def test_the_highest_percentile_is_taken():
    assert highest([0.5, None, 0.8]) == 0.8
    assert highest([None]) is None
