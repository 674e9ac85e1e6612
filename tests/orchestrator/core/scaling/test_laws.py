"""Laws of scaling, for every policy of the table that they apply to."""

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orchestrator.core.autoscaler import floors, plan
from orchestrator.core.planned import ScaleReason, ScalerState
from orchestrator.core.scaling import SCALERS
from stages.types import Stage
from tests.orchestrator.core.scaling.service import (
    FOLLOWING,
    D,
    E,
    P,
    Plant,
    any_bounds,
    any_signals,
    any_state,
    control,
    counts_of,
    loads,
    service,
)

every_policy = pytest.mark.parametrize("name", sorted(SCALERS))
following = pytest.mark.parametrize("name", FOLLOWING)
few = settings(max_examples=20, deadline=None)
fewer = settings(max_examples=5, deadline=None)
NEARLY = 1.003
"""Needs are solved for to a relative precision of 1e-3."""


@given(st.data(), any_signals(), st.sampled_from([0, 1]))
def test_law_1_a_need_is_monotone_in_the_load_of_its_stage(data, seen, kappa):
    """coupled, no budget, same state."""
    policy = control(kappa=kappa)
    state, now_s = data.draw(any_state(policy))
    more = data.draw(st.floats(1.0, 20.0))
    heavier = {
        E: replace(seen, image_tokens=seen.image_tokens * more),
        P: replace(seen, text_tokens=seen.text_tokens * more),
        D: replace(seen, output_tokens=seen.output_tokens * more),
    }
    before, _ = plan(seen, policy, state, now_s)
    for which, signals in heavier.items():
        after, _ = plan(signals, policy, state, now_s)
        assert before.stages[which].need <= after.stages[which].need * NEARLY


@given(st.data(), any_signals())
def test_law_1_a_need_is_monotone_in_the_backlog_of_its_stage(data, seen):
    policy = control()
    state, now_s = data.draw(any_state(policy))
    before, _ = plan(seen, policy, state, now_s)
    for which in Stage:
        longer = replace(seen.stages[which], waiting_units=seen.stages[which].waiting_units + 1e5)
        after, _ = plan(replace(seen, stages={**seen.stages, which: longer}), policy, state, now_s)
        assert before.stages[which].need <= after.stages[which].need * NEARLY


@every_policy
@few
@given(st.data(), any_signals(), any_bounds(), st.integers(1, 60))
def test_law_2_a_budget_is_kept_and_lowers_only(name, data, seen, bounds, budget):
    """Σ tp·N ≤ budget, each stage at most what was proposed without one and at least its floor."""
    free = control(name, bounds=bounds)
    policy = replace(
        free,
        budget=budget,
        stages={s: replace(b, tp=data.draw(st.sampled_from([1, 2, 4]))) for s, b in free.stages.items()},
    )
    lowest = floors(seen, policy)
    assume(sum(lowest[s] * policy.stages[s].tp for s in Stage) <= budget)
    state, now_s = data.draw(any_state(policy))
    decided, _ = plan(seen, policy, state, now_s)
    proposed, _ = plan(seen, replace(policy, budget=None), state, now_s)
    assert sum(decided.stages[s].replicas * policy.stages[s].tp for s in Stage) <= budget
    for s in Stage:
        assert lowest[s] <= decided.stages[s].replicas <= proposed.stages[s].replicas
        if decided.stages[s].replicas < proposed.stages[s].replicas:
            assert decided.stages[s].reason is ScaleReason.BUDGET


@every_policy
@few
@given(st.data(), any_bounds(), st.booleans(), st.booleans())
def test_law_3_counts_are_within_the_bounds(name, data, bounds, fresh, idle):
    policy = control(name, bounds=bounds)
    seen = data.draw(any_signals(fresh=fresh, idle=idle))
    state, now_s = data.draw(any_state(policy))
    decided, _ = plan(seen, policy, state, now_s)
    for s in Stage:
        low, high = bounds[s]
        assert low <= decided.stages[s].replicas <= high
        assert decided.stages[s].trail[-1] is decided.stages[s].reason


@every_policy
@few
@given(st.data(), any_bounds(), st.sets(st.sampled_from(list(Stage)), min_size=1), st.booleans())
def test_law_4_without_signals_nothing_shrinks(name, data, bounds, blind, whole):
    """Neither a service whose samples fail nor a stage whose samples do."""
    policy = control(name, bounds=bounds)
    state, now_s = data.draw(any_state(policy))
    seen = data.draw(any_signals(idle=data.draw(st.booleans())))
    stages = {s: replace(seen.stages[s], fresh=whole or s not in blind) for s in Stage}
    decided, _ = plan(replace(seen, fresh=not whole, stages=stages), policy, state, now_s)
    for s in Stage if whole else blind:
        assert decided.stages[s].replicas >= min(seen.stages[s].replicas, bounds[s][1])


@every_policy
@few
@given(st.data(), any_signals(fresh=False))
def test_law_4_a_budget_shrinks_nothing_either_without_signals(name, data, seen):
    policy = control(name, budget=max(3, sum(s.replicas for s in seen.stages.values())))
    assume(all(s.replicas for s in seen.stages.values()))
    state, now_s = data.draw(any_state(policy))
    decided, _ = plan(seen, policy, state, now_s)
    assert all(decided.stages[s].replicas >= seen.stages[s].replicas for s in Stage)


@following
@few
@given(st.data(), any_bounds())
def test_law_5_without_traffic_every_stage_goes_to_its_minimum(name, data, bounds):
    """To zero if all three minima are; otherwise prefill and decode keep one."""
    policy = control(name, bounds=bounds)
    state, now_s = data.draw(any_state(policy))
    seen = data.draw(any_signals(idle=True))
    decided, _ = plan(seen, policy, state, now_s)
    lowest = [bounds[s][0] for s in Stage]
    if any(lowest):
        lowest = [lowest[0], max(1, lowest[1]), max(1, lowest[2])]
    assert counts_of(decided) == tuple(lowest)


@every_policy
@fewer
@given(loads, st.integers(1, 10))
def test_law_6_flat_load_reaches_a_fixed_point(name, load, count):
    """Replicas follow the plan after a lead; after four hours nothing moves for half an hour.

    Not so heteroscale with its guardrail where the ratio is wrong for the load: what the one adds the
    other takes back.
    """
    params = {"guardrail": False} if name == "heteroscale" else {}
    plant = Plant(control(name, **params), (count, count, count), **load)
    for _ in range(480):
        plant.step(30.0)
    settled = counts_of(plant.step(30.0))
    assert all(counts_of(plant.step(30.0)) == settled for _ in range(60))


@every_policy
@few
@given(st.data(), any_signals())
def test_law_7_a_decision_is_a_function_of_its_arguments(name, data, seen):
    """Also of nothing like the order of a mapping."""
    policy = control(name, budget=data.draw(st.none() | st.integers(3, 50)))
    state, now_s = data.draw(any_state(policy))
    turned = replace(seen, stages=dict(reversed(list(seen.stages.items()))))
    assert plan(seen, policy, state, now_s) == plan(turned, policy, state, now_s)


@every_policy
def test_a_policy_starts_afresh_on_the_state_of_another(name):
    """As after a live edit of the policy file."""
    seen = service(ttft_ratio=0.6, tpot_ratio=0.6)
    for other in SCALERS:
        _, state = plan(seen, control(other), ScalerState(), 0.0)
        decided, after = plan(seen, control(name), state, 5.0)
        assert after.planned == {s: decided.stages[s].replicas for s in Stage}
