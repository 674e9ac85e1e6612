"""dynamo-like: a forecast sets the least counts, and latency adds single replicas in between."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.core.observed import Signals
from orchestrator.core.planned import ControlPolicy, ScalePlan, ScaleReason, ScalerState, StagePlan
from orchestrator.core.scaling.modserve import loads
from orchestrator.core.scaling.params import Params, above_zero, fraction, of_stage, params_of
from orchestrator.core.scaling.scaler import counted, own, propose
from orchestrator.core.scaling.sizing import throughput_need
from orchestrator.core.scaling.steps import whole
from orchestrator.core.scaling.trend import NO_TREND, Trend
from stages.types import Stage

WORST_CORRECTION = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamoLikeParams(Params):
    """Parameters of dynamo-like.

    Attributes:
        period_s: Between two forecasts, and how far they look ahead; above 0.
        load_period_s: Between two looks at latency; above 0.
        headroom: Fraction of a replica's rate to plan with; above 0 to 1.
        encode_headroom: The same for encode, null: `headroom`; above 0 to 1.
        decode_headroom: The same for decode, null: `headroom`; above 0 to 1.
        sensitivity: Below this fraction of the latency target a replica may go; above 0 to 1.
        trend_half_life_s: Of the forecast's trend; above 0.
        forecast_most: Growth that the forecast may add, as a fraction of the load; above 0.
    """

    period_s: float = 180.0
    load_period_s: float = 5.0
    headroom: float = 0.8
    encode_headroom: float | None = None
    decode_headroom: float | None = None
    sensitivity: float = 0.5
    trend_half_life_s: float = 360.0
    forecast_most: float = 1.0

    def __post_init__(self) -> None:
        Params.__post_init__(self)
        above_zero(self, "period_s", "load_period_s", "trend_half_life_s", "forecast_most")
        fraction(self, "headroom", "encode_headroom", "decode_headroom", "sensitivity")


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamoLikeState(ScalerState):
    """When both loops last ran, the trends of the loads, and the needs that the forecast gave."""

    forecast_s: float = -math.inf
    load_s: float = -math.inf
    trends: Mapping[Stage, Trend] = field(default_factory=dict)
    needs: Mapping[Stage, float | None] = field(default_factory=dict)


def dynamo_like(
    signals: Signals, policy: ControlPolicy, state: ScalerState, now_s: float
) -> tuple[ScalePlan, ScalerState]:
    """Forecast the load of the next period for the least counts; add or take one replica by latency.

    Every 180 s: N ≥ ceil(load(t + 180) · correction / (mu · headroom)), correction = max(1, TPOT / its
    target) for decode and 1 for the others. Every 5 s, if nothing is starting: N + 1 if the wait exceeds its
    budget (decode: TPOT its target), N − 1 if it is under half of it and N is above the least.

    Source: NVIDIA Dynamo's SLA planner, its throughput-based and load-based loops; its correction of prefill
    is at most 1 as well. The trend is Holt's, in place of ARIMA or Prophet, and encode, which that planner
    lacks, is treated as prefill. Inputs: offered rates, waits, TPOT, the profile's rates. Choose it for text
    load with a slow rhythm: it does not connect the stages, and image bursts are trends to it.
    """
    params, mine = params_of(policy, DynamoLikeParams), own(state, DynamoLikeState)
    if now_s - mine.forecast_s >= params.period_s:
        mine = _forecast(signals, policy, params, mine, now_s)
    looks = now_s - mine.load_s >= params.load_period_s
    stages = {}
    for stage in Stage:
        seen, count = signals.stages[stage], counted(signals, mine, stage)
        strain = _strain(signals, stage) if looks and not seen.coming else None
        stages[stage] = _next(count, mine.needs[stage], strain, params)
    return ScalePlan(stages=stages), replace(mine, load_s=now_s) if looks else mine


def _forecast(
    signals: Signals, policy: ControlPolicy, params: DynamoLikeParams, state: DynamoLikeState, now_s: float
) -> DynamoLikeState:
    now = loads(signals, policy.kappa)
    trends = {
        s: state.trends.get(s, NO_TREND).updated(now[s], now_s, params.trend_half_life_s) for s in Stage
    }
    needs = {}
    for stage, trend in trends.items():
        ahead = now[stage] + trend.growth(now[stage], params.period_s, params.forecast_most)
        ahead *= _correction(signals, stage)
        needs[stage] = throughput_need(ahead, signals.stages[stage], of_stage(params, "headroom", stage))
    return replace(state, forecast_s=now_s, trends=trends, needs=needs)


def _correction(signals: Signals, stage: Stage) -> float:
    if stage is not Stage.DECODE or signals.tpot_ratio is None:
        return 1.0
    return min(WORST_CORRECTION, max(1.0, signals.tpot_ratio))


def _strain(signals: Signals, stage: Stage) -> float | None:
    """Return latency as a fraction of its target: TPOT for decode, else the wait of its budget."""
    if stage is Stage.DECODE:
        return signals.tpot_ratio
    seen = signals.stages[stage]
    return None if seen.wait_s is None else seen.wait_s / seen.budget_s


def _next(count: int, need: float | None, strain: float | None, params: DynamoLikeParams) -> StagePlan:
    """Return a stage's plan; a strain of None, unknown or not to be acted on now, does not add or take."""
    least = count if need is None else whole(need)
    if count < least:
        return propose(least, ScaleReason.FORECAST, need)
    if strain is None:
        return propose(count, ScaleReason.STABILISING, need)
    if strain > 1.0:
        return propose(count + 1, ScaleReason.GUARDRAIL, need)
    if strain < params.sensitivity and count > least:
        return propose(count - 1, ScaleReason.DEMAND, need)
    return propose(count, ScaleReason.WITHIN_TOLERANCE, need)
