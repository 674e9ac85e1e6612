"""What plan() applies to every policy's proposal, with reasons."""

import pytest

from orchestrator.core.autoscaler import plan
from orchestrator.core.budget import fit
from orchestrator.core.planned import ScaleReason as Why
from orchestrator.core.planned import ScalerState
from orchestrator.core.scaling.steps import Clock, StepRules, aim, step, whole
from tests.orchestrator.core.scaling.service import D, E, P, control, counts_of, service

TEXT = {"images": 0.0, "text": 1.0, "requests": 0.01}
ZERO = dict.fromkeys((E, P, D), (0, 64))


def fixed(seen, *, bounds=None, budget=None, state=None, counts=(3, 4, 5)):
    encode, prefill, decode = counts
    policy = control("static", bounds=bounds, budget=budget, encode=encode, prefill=prefill, decode=decode)
    return plan(seen, policy, state or ScalerState(), 0.0)


def test_every_step_that_moves_a_count_leaves_its_reason():
    """Proposed 3, raised to its minimum, lowered by the budget."""
    seen = service(counts=(3, 4, 5))
    decided, _ = fixed(seen, bounds={E: (1, 2), P: (1, 9), D: (1, 9)}, budget=8)
    assert decided.stages[E].trail[:2] == (Why.FIXED, Why.BOUND)
    assert decided.stages[D].trail == (Why.FIXED, Why.BUDGET)
    assert sum(counts_of(decided)) == 8


def test_the_state_knows_what_was_asked_and_what_was_planned():
    _, state = fixed(service(counts=(3, 4, 5)), budget=9)
    assert sum(state.planned.values()) == 9
    assert state.asked == {E: 3, P: 4, D: 5}


@pytest.mark.parametrize(
    ("bounds", "more", "counts"),
    [
        pytest.param(ZERO, {"idle": True}, (0, 0, 0), id="to-zero-as-a-whole"),
        pytest.param({E: (0, 9), P: (0, 9), D: (1, 9)}, {"idle": True}, (0, 1, 1), id="or-not-at-all"),
        pytest.param({E: (2, 9), P: (1, 9), D: (3, 9)}, {"idle": True}, (2, 1, 3), id="to-the-minima"),
        pytest.param(
            ZERO, {"images": 0.0, "requests": 0.01, "text": 1.0}, (1, 1, 1), id="one-each-with-traffic"
        ),
        pytest.param({E: (0, 9)}, TEXT, (0, 1, 1), id="no-images"),
        pytest.param({E: (0, 9)}, TEXT | {"images": 1.0}, (1, 1, 1), id="an-image"),
    ],
)
def test_zero(bounds, more, counts):
    seen = service(counts=(0, 0, 0), **more)
    assert counts_of(plan(seen, control("modserve", bounds=bounds), ScalerState(), 0.0)[0]) == counts


def test_a_service_at_zero_without_signals_stays_there():
    seen = service(counts=(0, 0, 0), fresh=False)
    assert counts_of(plan(seen, control(bounds=ZERO), ScalerState(), 0.0)[0]) == (0, 0, 0)


def test_a_lost_replica_is_asked_for_again_also_without_signals():
    policy = control()
    _, state = plan(service(counts=(3, 4, 5)), policy, ScalerState(), 0.0)
    decided, _ = plan(service(counts=(3, 2, 5), fresh=False), policy, state, 5.0)
    assert (decided.stages[P].replicas, decided.stages[P].reason) == (state.planned[P], Why.NO_SIGNAL)


@pytest.mark.parametrize(
    ("wanted", "running", "tp", "budget", "counts"),
    [
        pytest.param((3, 4, 5), (1, 1, 1), (1, 1, 1), 12, (3, 4, 5), id="enough"),
        pytest.param((10, 20, 30), (1, 1, 1), (1, 1, 1), 30, (5, 10, 15), id="in-proportion"),
        pytest.param((10, 20, 30), (1, 1, 1), (1, 1, 2), 45, (5, 10, 15), id="accelerators-and-not-replicas"),
        pytest.param((1, 1, 40), (1, 1, 1), (1, 1, 1), 10, (1, 1, 8), id="none-below-its-floor"),
        pytest.param((8, 8, 8), (6, 5, 5), (1, 1, 1), 16, (6, 5, 5), id="running-ones-stay"),
        pytest.param((8, 8, 8), (12, 2, 2), (1, 1, 1), 16, (5, 6, 5), id="unless-another-starves"),
        pytest.param((8, 8, 8), (0, 0, 0), (4, 4, 4), 8, (1, 1, 1), id="floors-beyond-the-budget"),
    ],
)
def test_budget(wanted, running, tp, budget, counts):
    def by_stage(values):
        return dict(zip((E, P, D), values, strict=True))

    fitting = fit(by_stage(wanted), by_stage((1, 1, 1)), by_stage(running), by_stage(tp), budget)
    assert sum(fitting.values()) == sum(counts)
    assert sorted(fitting.values()) == sorted(counts)


def test_proposals_that_tremble_at_the_budget_do_not_move_replicas():
    running = {E: 5, P: 10, D: 15}
    floors, tp = dict.fromkeys(running, 1), dict.fromkeys(running, 1)
    for k in range(20):
        wanted = {E: 10 + k % 2, P: 20 - k % 3, D: 30 + k % 5}
        assert fit(wanted, floors, running, tp, 30) == running


RULES = StepRules(
    hysteresis_out=0.1, hysteresis_in=0.2, cooldown_out_s=120.0, cooldown_in_s=600.0, up=0.5, down=0.25
)


@pytest.mark.parametrize(
    ("count", "need", "replicas", "reason"),
    [
        pytest.param(10, 10.9, 10, Why.WITHIN_TOLERANCE, id="a-tenth-above"),
        pytest.param(10, 11.1, 12, Why.DEMAND, id="more"),
        pytest.param(10, 40.0, 15, Why.STEP_LIMIT, id="by-a-half-at-most"),
        pytest.param(1, 40.0, 2, Why.STEP_LIMIT, id="by-one-at-least"),
        pytest.param(0, 40.0, 40, Why.DEMAND, id="from-zero-at-once"),
        pytest.param(10, 8.1, 10, Why.WITHIN_TOLERANCE, id="a-fifth-below"),
        pytest.param(10, 7.5, 8, Why.DEMAND, id="less"),
        pytest.param(10, 1.0, 8, Why.STEP_LIMIT, id="by-a-quarter-at-most"),
        pytest.param(2, 0.5, 1, Why.DEMAND, id="down-by-one-at-least"),
        pytest.param(10, 9.999, 10, Why.DEMAND, id="as-it-is"),
        pytest.param(60, 200.0, 64, Why.DEMAND, id="to-the-maximum"),
    ],
)
def test_a_step(count, need, replicas, reason):
    assert step(count, need, RULES, Clock(), control().stages[P], 0.0) == (replicas, reason)


@pytest.mark.parametrize(
    ("need", "clock", "now_s", "replicas"),
    [
        pytest.param(20.0, Clock(grown_s=0.0, moved_s=0.0), 119.0, 10, id="grown-lately"),
        pytest.param(20.0, Clock(grown_s=0.0, moved_s=0.0), 120.0, 15, id="grown-long-ago"),
        pytest.param(20.0, Clock(moved_s=0.0), 1.0, 15, id="growth-does-not-wait-for-a-shrinking"),
        pytest.param(5.0, Clock(moved_s=0.0), 599.0, 10, id="moved-lately"),
        pytest.param(5.0, Clock(moved_s=0.0), 600.0, 8, id="moved-long-ago"),
    ],
)
def test_cooldown(need, clock, now_s, replicas):
    assert step(10, need, RULES, clock, control().stages[P], now_s)[0] == replicas


def test_rounding_forgives_what_needs_are_not_known_to():
    assert [whole(need) for need in (0.0, 1e-9, 1.0, 1.001, 1.01, 4.005)] == [0, 0, 1, 1, 2, 4]


def test_damping_never_stops_short_of_one_replica():
    damped = StepRules(
        hysteresis_out=0.1,
        hysteresis_in=0.2,
        cooldown_out_s=0.0,
        cooldown_in_s=0.0,
        up=None,
        down=1.0,
        damping=0.5,
    )
    bounds = control().stages[P]
    assert aim(10, 20.0, damped, bounds) == 15
    assert aim(10, 4.0, damped, bounds) == 7
    assert aim(2, 0.9, damped, bounds) == 1


@pytest.mark.parametrize(
    ("name", "seen"),
    [("hpa", {"utilisation": 0.95}), ("threshold-or", {"kv_usage": 0.9, "utilisation": None})],
)
def test_a_server_that_does_all_stages_follows_what_is_seen_of_it(name, seen):
    """Its other stages have no replicas, whatever is offered."""
    nothing = {"ready": 0, "utilisation": None}
    signals = service(counts=(0, 0, 4), stages={E: nothing, P: nothing, D: seen})
    policy = control(name, bounds={E: (0, 0), P: (0, 0), D: (1, 8)})
    encode, prefill, decode = counts_of(plan(signals, policy, ScalerState(), 0.0)[0])
    assert (encode, prefill) == (0, 0) and decode > 4
