"""threshold-or: a stage is saturated if its KV cache or its queue is too full."""

from dataclasses import dataclass

from orchestrator.core.infeasible import InfeasibleError
from orchestrator.core.observed import Signals, StageSignals
from orchestrator.core.planned import ControlPolicy, ScalePlan, ScaleReason, ScalerState, StagePlan
from orchestrator.core.scaling.params import Params, above_zero, fraction, not_negative, params_of
from orchestrator.core.scaling.scaler import counted, propose
from stages.types import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdOrParams(Params):
    """Parameters of threshold-or.

    Attributes:
        kv: Fraction of KV cache in use at which a stage is saturated; above 0 to 1.
        queue: Waiting jobs per replica at which it is; above 0.
        kv_spare: Fraction below `kv` that one replica less must leave; ≥ 0 and below kv.
        queue_spare: Waiting jobs below `queue` that one replica less must leave; ≥ 0 and at most queue.
    """

    kv: float = 0.8
    queue: float = 5.0
    kv_spare: float = 0.1
    queue_spare: float = 3.0

    def __post_init__(self) -> None:
        Params.__post_init__(self)
        fraction(self, "kv")
        above_zero(self, "queue")
        not_negative(self, "kv_spare", "queue_spare")
        if self.kv_spare >= self.kv:
            raise InfeasibleError(f"{self.kv_spare:g} is not below kv, {self.kv:g}", "kv_spare")
        if self.queue_spare > self.queue:
            raise InfeasibleError(f"{self.queue_spare:g} is above queue, {self.queue:g}", "queue_spare")


def threshold_or(
    signals: Signals, policy: ControlPolicy, state: ScalerState, now_s: float
) -> tuple[ScalePlan, ScalerState]:
    """Add a replica while one of two thresholds is reached, take one away while neither would be near.

    N + 1 if kv ≥ 0.8 or waiting / N ≥ 5; N − 1 if kv · N/(N−1) ≤ 0.8 − 0.1 and waiting / (N−1) ≤ 5 − 3; N
    while a replica is still starting.

    Source: thresholds and spare triggers of llm-d's workload variant autoscaler; a KEDA scaler with two
    triggers is the same or. Inputs: KV-cache usage, waiting jobs. Choose it where no profile exists and load
    moves slowly: it adds one replica per cold start, and encode has no KV cache to watch.
    """
    params = params_of(policy, ThresholdOrParams)
    stages = {s: _next(signals.stages[s], counted(signals, state, s), params) for s in Stage}
    return ScalePlan(stages=stages), state


def _next(seen: StageSignals, count: int, params: ThresholdOrParams) -> StagePlan:
    if seen.coming:
        return propose(count, ScaleReason.STABILISING)
    if seen.kv_usage >= params.kv or seen.waiting_jobs >= params.queue * count:
        return propose(count + 1, ScaleReason.DEMAND)
    fewer = count - 1
    spare_kv = seen.kv_usage * count <= (params.kv - params.kv_spare) * fewer
    spare_queue = seen.waiting_jobs <= (params.queue - params.queue_spare) * fewer
    return propose(fewer if fewer and spare_kv and spare_queue else count, ScaleReason.WITHIN_TOLERANCE)
