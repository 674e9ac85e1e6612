"""hpa: the Kubernetes horizontal pod autoscaler on utilisation, each stage for itself."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.core.observed import Signals, StageSignals
from orchestrator.core.planned import ControlPolicy, ScalePlan, ScaleReason, ScalerState, StagePlan
from orchestrator.core.scaling.params import Params, fraction, not_negative, of_stage, params_of
from orchestrator.core.scaling.scaler import counted, own, propose
from orchestrator.core.scaling.stabilise import Recent, highest, remember
from stages.types import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class HpaParams(Params):
    """Parameters of hpa; defaults are those of Kubernetes but for the target.

    Attributes:
        target: Utilisation aimed at, above 0 to 1.
        encode_target: The same for encode, null: `target`; above 0 to 1.
        decode_target: The same for decode, null: `target`; above 0 to 1.
        tolerance: No change while utilisation is so near its target, as a fraction of it; ≥ 0.
        stabilise_s: Scale-in takes the highest count wanted in this time; ≥ 0.
    """

    target: float = 0.7
    encode_target: float | None = None
    decode_target: float | None = None
    tolerance: float = 0.1
    stabilise_s: float = 300.0

    def __post_init__(self) -> None:
        Params.__post_init__(self)
        fraction(self, "target", "encode_target", "decode_target")
        not_negative(self, "tolerance", "stabilise_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class HpaState(ScalerState):
    """Counts wanted lately, by stage."""

    wanted: Mapping[Stage, Recent[int]] = field(default_factory=dict)


def hpa(
    signals: Signals, policy: ControlPolicy, state: ScalerState, now_s: float
) -> tuple[ScalePlan, ScalerState]:
    """Bring each stage's utilisation to a target, as the Kubernetes HPA does.

    N' = ceil(N · util / target), no change while |util/target − 1| ≤ tolerance, and for scale-in the
    highest N' of the last 300 s. Replicas that are not ready count as idle when growing, so that a
    growth under way is not repeated.

    Source: kubernetes `pkg/controller/podautoscaler/replica_calculator.go`; baseline of cloud-native
    serving (arXiv 2507.18007). Inputs: utilisation. Choose it where nothing but Kubernetes is at hand.
    Decode's utilisation is pinned high under continuous batching, and it sees a queue too late.
    """
    params, mine = params_of(policy, HpaParams), own(state, HpaState)
    stages, wanted = {}, {}
    for stage in Stage:
        seen, now = signals.stages[stage], counted(signals, mine, stage)
        need = _need(seen, now, of_stage(params, "target", stage))
        wants = now if need is None or abs(need / max(1, now) - 1.0) <= params.tolerance else math.ceil(need)
        wanted[stage] = remember(mine.wanted.get(stage) or ((now_s, now),), wants, now_s, params.stabilise_s)
        stages[stage] = _stabilised(now, wants, need, wanted[stage])
    return ScalePlan(stages=stages), replace(mine, wanted=wanted)


def _need(seen: StageSignals, now: int, target: float) -> float | None:
    """Return N · util / target, None if utilisation is unknown."""
    if seen.utilisation is None:
        return None
    ratio = seen.utilisation / target
    return (seen.ready_worth if ratio > 1.0 else now) * ratio


def _stabilised(now: int, wants: int, need: float | None, recent: Recent[int]) -> StagePlan:
    if need is None:
        return propose(now, ScaleReason.NO_SIGNAL)
    if wants == now:
        return propose(now, ScaleReason.WITHIN_TOLERANCE, need)
    if wants > now:
        return propose(wants, ScaleReason.DEMAND, need)
    highest_wanted = min(now, highest(recent))
    return propose(
        highest_wanted, ScaleReason.STABILISING if highest_wanted > wants else ScaleReason.DEMAND, need
    )
