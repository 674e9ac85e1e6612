"""Loops that go by one signal, and profiles at the ends of their error."""

from dataclasses import dataclass

import numpy as np
import pytest

from experiments.closed_loops import ATTAINMENT, PERIOD_S, SignalLoop, load, searched
from experiments.e5_signals import E5
from experiments.e5_table import SIGNALS
from experiments.e10_terms import subject
from experiments.e11_error import at_end, ends
from experiments.point import FULL, QUICK
from orchestrator.core.observed import Snapshot
from stages.types import Stage


@dataclass
class Outcome:
    gpu_hours: float
    attainment: float


def test_a_search_finds_the_cheapest_target_that_attains():
    """Replicas are one over the target; three of them attain."""
    signal = SIGNALS["E utilisation"]
    target = searched(signal, 6, lambda target: Outcome(1.0 / target, 0.99 if target <= 1.0 / 3.0 else 0.9))
    assert 0.3 < target <= 1.0 / 3.0


def test_a_search_that_never_attains_takes_what_comes_closest():
    signal = SIGNALS["E utilisation"]
    target = searched(signal, 6, lambda target: Outcome(1.0 / target, ATTAINMENT - 0.5 * target))
    assert target == pytest.approx(signal.safe, rel=0.1)


class Loop:
    """A loop by an encode signal that stands at a value, beside the state that `decide` keeps."""

    def __init__(self, name, value, target):
        signal = SIGNALS[name]
        fixed = type(signal)(
            stage=signal.stage, of=lambda _: value, each=signal.each, cheap=signal.cheap, safe=signal.safe
        )
        self.loop = SignalLoop(signal=fixed, target=target, counts=dict.fromkeys(Stage, 2))

    def counts_after(self, ticks):
        given = subject()
        policies, state = {given.control.service: given.control}, {}
        for tick in range(ticks):
            snapshot = Snapshot(services={given.control.service: None}, nodes=given.nodes)
            state = self.loop(snapshot, policies, state, 700.0 + tick * PERIOD_S).state
        return self.loop.counts


def test_a_loop_by_a_rate_goes_for_rate_over_target_and_leaves_the_other_stages():
    assert Loop("E offered tokens/s", 3_000.0, 1_000.0).counts_after(1) == {
        "encode": 3,
        "prefill": 2,
        "decode": 2,
    }


def test_a_loop_without_its_signal_stays():
    assert Loop("E offered tokens/s", None, 1_000.0).counts_after(3)[Stage.ENCODE] == 2


def test_repetitions_grow_under_cache_hit_drift():
    work = load("cache-hit drift", 0)
    known = work.content_ids < 50
    half = len(work) // 2
    assert np.mean(known[:half]) < 0.3 < 0.7 < np.mean(known[half:])


def test_a_stage_at_the_end_of_its_error_leaves_the_others():
    control = subject().control
    slow = at_end(control, "encode", 1.6).profile
    assert {where: t.image_s for where, t in slow.encode.items()} == {
        where: 1.6 * t.image_s for where, t in control.profile.encode.items()
    }
    assert (slow.prefill, slow.decode) == (control.profile.prefill, control.profile.decode)
    assert len(ends()) == 7


def test_loops_are_added_to_the_loads_that_were_there():
    """Points that have been measured keep their factors, so that what was measured is found again."""
    for scale in (QUICK, FULL):
        assert [p.factors for p in E5.points(scale)[:4]] == [
            (("load", kind),) for kind in ("diurnal", "image burst", "length drift", "cache-hit drift")
        ]
