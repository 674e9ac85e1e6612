"""What a scaling policy is, and what most of them need to read their arguments."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from orchestrator.core.observed import Signals
from orchestrator.core.planned import ControlPolicy, ScalePlan, ScaleReason, ScalerState, StagePlan
from orchestrator.core.scaling.params import Params
from stages.types import Stage

S = TypeVar("S", bound=ScalerState)

PlanFunction = Callable[[Signals, ControlPolicy, ScalerState, float], tuple[ScalePlan, ScalerState]]
"""(signals, policy, state, now_s) → (plan, state)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaler:
    """A scaling policy, as the table has it.

    Attributes:
        plan: Proposes counts. `core.autoscaler.plan` calls it, then applies bounds and budget.
        params: Class of its parameters.
        follows_load: Whether missing signals make it propose and zero traffic brings it to the minima. If
            not, its counts are a matter of the file and the clock.
        live: Whether a policy file may name it; those that know the future are for simulators.
        counts_work: Whether it reckons what the offered work is to each stage, and so has to know which stage
            does it. If not, its counts are fixed, or follow what is seen of a stage's own replicas.
        goes_by_queues: Whether it takes a stage for which nothing waits in gateways for idle.
    """

    plan: PlanFunction
    params: type[Params]
    follows_load: bool = True
    live: bool = True
    counts_work: bool = True
    goes_by_queues: bool = False


def own(state: ScalerState, kind: type[S]) -> S:
    """Return the state if it is of this kind, else a fresh one with the same counts."""
    return state if isinstance(state, kind) else kind(planned=state.planned, asked=state.asked)


def counted(signals: Signals, state: ScalerState, stage: Stage) -> int:
    """Return the count to step from: as last planned, or, before the first plan, as observed.

    A replica that failed or that has no place yet is in the former, so it is asked for again without
    any threshold being crossed.
    """
    planned = state.planned.get(stage)
    return signals.stages[stage].replicas if planned is None else planned


def asked(signals: Signals, state: ScalerState, stage: Stage) -> int:
    """Return the count to step from for a policy that knows what the load needs: as `counted`, unclamped.

    A stage that the budget holds down would otherwise ask for little more than it has, and a stage that
    moves faster would get its share.
    """
    before = state.asked.get(stage)
    return signals.stages[stage].replicas if before is None else before


def propose(replicas: int, reason: ScaleReason, need: float | None = None) -> StagePlan:
    """Return a stage's plan; its need is the count itself where a policy has no finer figure."""
    return StagePlan(replicas=replicas, need=float(replicas) if need is None else need, reason=reason)
