"""latency-only: replicas follow the multiples of the SLO, whatever the load."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.core.infeasible import InfeasibleError
from orchestrator.core.observed import Signals
from orchestrator.core.planned import ControlPolicy, ScalePlan, ScaleReason, ScalerState, StagePlan
from orchestrator.core.scaling.params import Params, above_zero, not_negative, params_of
from orchestrator.core.scaling.scaler import counted, own, propose
from orchestrator.core.scaling.steps import Clock, clock_of
from stages.types import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyOnlyParams(Params):
    """Parameters of latency-only.

    Attributes:
        high: Growth above this multiple of the SLO; above 0.
        low: Shrinking below this multiple; ≥ 0 and below high.
        up: Growth at once at most, as a fraction of the count and at least one replica; above 0.
        down: Shrinking at once, as a fraction of the count and at least one replica; above 0.
        cooldown_out_s: Between two growths; ≥ 0.
        cooldown_in_s: From any change to a shrinking; ≥ 0.
    """

    high: float = 1.0
    low: float = 0.5
    up: float = 0.5
    down: float = 0.1
    cooldown_out_s: float = 60.0
    cooldown_in_s: float = 300.0

    def __post_init__(self) -> None:
        Params.__post_init__(self)
        above_zero(self, "high", "up", "down")
        not_negative(self, "low", "cooldown_out_s", "cooldown_in_s")
        if self.low >= self.high:
            raise InfeasibleError(f"{self.low:g} is not below high, {self.high:g}", "low")


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyOnlyState(ScalerState):
    """When counts last moved."""

    clocks: Mapping[Stage, Clock] = field(default_factory=dict)


def latency_only(
    signals: Signals, policy: ControlPolicy, state: ScalerState, now_s: float
) -> tuple[ScalePlan, ScalerState]:
    """Grow in proportion to a breach of the SLO, shrink step by step while there is none.

    N' = ceil(N · min(r / high, 1 + up)) if r > high; N − max(1, ⌊down · N⌋) if r < low. r is TTFT's
    multiple of its target for encode and prefill, TPOT's for decode.

    Source: SLO-driven autoscalers; HeteroScale (arXiv 2508.19559) finds both signals cliff-like. Inputs:
    the two multiples. Choose it where neither a profile nor a throughput is known: it acts after users felt
    it, and grows both encode and prefill whichever is at fault.
    """
    params, mine = params_of(policy, LatencyOnlyParams), own(state, LatencyOnlyState)
    ratios = {
        Stage.ENCODE: signals.ttft_ratio,
        Stage.PREFILL: signals.ttft_ratio,
        Stage.DECODE: signals.tpot_ratio,
    }
    counts = {stage: counted(signals, mine, stage) for stage in Stage}
    clocks = {s: clock_of(mine.clocks, s, now_s) for s in Stage}
    stages = {s: _next(counts[s], ratios[s], params, clocks[s], now_s) for s in Stage}
    clocks = {s: clocks[s].after(counts[s], stages[s].replicas, now_s) for s in Stage}
    return ScalePlan(stages=stages), replace(mine, clocks=clocks)


def _next(
    count: int, ratio: float | None, params: LatencyOnlyParams, clock: Clock, now_s: float
) -> StagePlan:
    if ratio is None:
        return propose(count, ScaleReason.NO_SIGNAL)
    if ratio > params.high:
        if now_s - clock.grown_s < params.cooldown_out_s:
            return propose(count, ScaleReason.COOLDOWN)
        need = count * min(ratio / params.high, 1.0 + params.up)
        return propose(max(count + 1, math.ceil(need)), ScaleReason.GUARDRAIL, need)
    if ratio < params.low and count:
        if now_s - clock.moved_s < params.cooldown_in_s:
            return propose(count, ScaleReason.COOLDOWN)
        return propose(count - max(1, math.floor(params.down * count)), ScaleReason.DEMAND)
    return propose(count, ScaleReason.WITHIN_TOLERANCE)
