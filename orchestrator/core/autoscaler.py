"""plan(): how many replicas each stage of a service should have.

The service's scaling policy proposes; what holds for all policies is applied to that here, in one order:
no traffic, signals that fail, bounds, budget. Every step that moves a count leaves its reason.
"""

from collections.abc import Mapping
from dataclasses import replace

from orchestrator.core.budget import fit
from orchestrator.core.observed import Signals
from orchestrator.core.planned import ControlPolicy, ScalePlan, ScaleReason, ScalerState, StagePlan
from orchestrator.core.scaling import SCALERS, Scaler
from orchestrator.core.scaling.scaler import counted, propose
from stages.types import Stage


def plan(
    signals: Signals, policy: ControlPolicy, state: ScalerState, now_s: float
) -> tuple[ScalePlan, ScalerState]:
    """Return the counts that the stages should have, and what to remember for the next time.

    Args:
        signals: The service's, from `core.signals.summarize`.
        policy: The service's.
        state: What the last call returned; `ScalerState()` at first.
        now_s: On the clock of all earlier calls.
    """
    scaler = SCALERS[policy.scaling]
    proposal, state = _propose(scaler, signals, policy, state, now_s)
    lowest = floors(signals, policy)
    stages = {}
    for stage in Stage:
        asked = proposal.stages[stage]
        if scaler.follows_load:
            asked = _with_traffic(asked, signals, lowest[stage])
        asked = _with_signal(asked, signals, stage)
        running, highest = signals.stages[stage].replicas, policy.stages[stage].max
        stages[stage] = _within(asked, lowest[stage], highest, running)
    clamped = _within_budget(stages, signals, policy, lowest)
    state = replace(state, planned=_counts(clamped), asked=_counts(stages))
    return ScalePlan(stages=clamped), state


def floors(signals: Signals, policy: ControlPolicy) -> Mapping[Stage, int]:
    """Return the fewest replicas that each stage may have now.

    A service goes to zero as a whole and comes back as a whole, and only if all three minima are 0: with
    traffic or without fresh signals to the contrary it has one replica of each stage then. If only some
    are 0, prefill and decode keep one, since every request needs them, and encode is at its own minimum
    while no image is about. A stage that no request passes has none.
    """
    lowest = {stage: policy.stages[stage].min for stage in Stage}
    whole_service = not any(lowest.values())
    if whole_service and (signals.idle or _unknown_at_zero(signals)):
        return lowest
    waiting = signals.stages[Stage.ENCODE].waiting_jobs > 0
    images = not signals.idle and (signals.image_tokens > 0.0 or waiting)
    least = {
        stage: n if stage is Stage.ENCODE and not (whole_service or images) else max(1, n)
        for stage, n in lowest.items()
    }
    return {stage: min(n, policy.stages[stage].max) for stage, n in least.items()}


def _counts(stages: Mapping[Stage, StagePlan]) -> dict[Stage, int]:
    return {stage: stages[stage].replicas for stage in Stage}


def _unknown_at_zero(signals: Signals) -> bool:
    return not signals.fresh and not any(s.replicas for s in signals.stages.values())


def _propose(
    scaler: Scaler, signals: Signals, policy: ControlPolicy, state: ScalerState, now_s: float
) -> tuple[ScalePlan, ScalerState]:
    """Return what the policy proposes; one that follows the load holds while it cannot see it."""
    if signals.fresh or not scaler.follows_load:
        return scaler.plan(signals, policy, state, now_s)
    held = {stage: propose(counted(signals, state, stage), ScaleReason.NO_SIGNAL) for stage in Stage}
    return ScalePlan(stages=held), state


def _with_signal(stage_plan: StagePlan, signals: Signals, stage: Stage) -> StagePlan:
    """Without a fresh signal no stage shrinks."""
    seen = signals.stages[stage]
    if signals.fresh and seen.fresh:
        return stage_plan
    return _moved(stage_plan, max(stage_plan.replicas, seen.replicas), ScaleReason.NO_SIGNAL)


def _with_traffic(stage_plan: StagePlan, signals: Signals, lowest: int) -> StagePlan:
    """Without traffic a stage goes to its minimum."""
    if not (signals.idle and signals.fresh):
        return stage_plan
    return _moved(stage_plan, min(stage_plan.replicas, lowest), ScaleReason.NO_TRAFFIC)


def _within(stage_plan: StagePlan, lowest: int, highest: int, running: int) -> StagePlan:
    """Apply the bounds; the first replicas of a stage have a reason of their own."""
    replicas = min(max(stage_plan.replicas, lowest), max(highest, lowest))
    bounded = _moved(stage_plan, replicas, ScaleReason.BOUND)
    return _traced(bounded, ScaleReason.FROM_ZERO) if replicas and not running else bounded


def _within_budget(
    stages: Mapping[Stage, StagePlan], signals: Signals, policy: ControlPolicy, lowest: Mapping[Stage, int]
) -> dict[Stage, StagePlan]:
    """Apply the budget, which lowers and never raises."""
    if policy.budget is None:
        return dict(stages)
    running = {s: signals.stages[s].replicas for s in Stage}
    kept = {
        s: max(lowest[s], min(stages[s].replicas, running[s])) if not _seen(signals, s) else lowest[s]
        for s in Stage
    }
    tp = {s: policy.stages[s].tp for s in Stage}
    wanted = {s: stages[s].replicas for s in Stage}
    if sum(kept[s] * tp[s] for s in Stage) > policy.budget:
        kept = dict(lowest)
    fitting = fit(wanted, kept, running, tp, policy.budget)
    return {s: _moved(stages[s], fitting[s], ScaleReason.BUDGET) for s in Stage}


def _seen(signals: Signals, stage: Stage) -> bool:
    return signals.fresh and signals.stages[stage].fresh


def _moved(stage_plan: StagePlan, replicas: int, reason: ScaleReason) -> StagePlan:
    """Return the plan with another count and the reason for it; unchanged if it is the same count."""
    if replicas == stage_plan.replicas:
        return stage_plan if stage_plan.trail else replace(stage_plan, trail=(stage_plan.reason,))
    return _traced(replace(stage_plan, replicas=replicas), reason)


def _traced(stage_plan: StagePlan, reason: ScaleReason) -> StagePlan:
    trail = stage_plan.trail or (stage_plan.reason,)
    return replace(stage_plan, reason=reason, trail=(*trail, reason))
