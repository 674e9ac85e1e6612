"""heteroscale: decode throughput sizes prefill and decode at a fixed ratio."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.core.observed import Signals
from orchestrator.core.planned import ControlPolicy, ScalePlan, ScaleReason, ScalerState, StagePlan
from orchestrator.core.scaling.guardrail import BREACH, growth, to_blame, worst_ratio
from orchestrator.core.scaling.pair import Side, together
from orchestrator.core.scaling.params import Params, above_zero, fraction, not_negative, params_of
from orchestrator.core.scaling.scaler import asked, own, propose
from orchestrator.core.scaling.sizing import throughput_need
from orchestrator.core.scaling.steps import Clock, StepRules, bounded, clock_of, step
from stages.types import Stage

PREFILL, DECODE = Stage.PREFILL, Stage.DECODE


@dataclass(frozen=True, slots=True, kw_only=True)
class HeteroscaleParams(Params):
    """Parameters of heteroscale.

    Attributes:
        ratio: Prefill replicas per decode replica, by a pressure test (1:5 to 9:1 are usual); above 0.
        target: Decode throughput aimed at, as a fraction of the profile's; above 0 to 1.
        encode_target: Encode throughput aimed at, likewise; above 0 to 1.
        hysteresis_out: No growth while the need is within this fraction above the count; ≥ 0.
        hysteresis_in: No shrinking while it is within this fraction below; ≥ 0.
        cooldown_out_s: Between two growths; ≥ 0.
        cooldown_in_s: From any change to a shrinking; ≥ 0.
        period_s: Between two decisions; ≥ 0.
        damping: Fraction of the way to the need that one decision goes; above 0 to 1.
        guardrail: Whether a breach of the SLO that encode is not to blame for adds 10 % to both, and 20 %
            beyond 1.2 times the SLO.
    """

    ratio: float = 1.0
    target: float = 0.7
    encode_target: float = 0.7
    hysteresis_out: float = 0.10
    hysteresis_in: float = 0.20
    cooldown_out_s: float = 120.0
    cooldown_in_s: float = 600.0
    period_s: float = 30.0
    damping: float = 0.8
    guardrail: bool = True

    def __post_init__(self) -> None:
        Params.__post_init__(self)
        above_zero(self, "ratio")
        fraction(self, "target", "encode_target", "damping")
        not_negative(self, "hysteresis_out", "hysteresis_in", "cooldown_out_s", "cooldown_in_s", "period_s")

    @property
    def rules(self) -> StepRules:
        """How counts move; damping limits steps, nothing else does."""
        return StepRules(
            hysteresis_out=self.hysteresis_out,
            hysteresis_in=self.hysteresis_in,
            cooldown_out_s=self.cooldown_out_s,
            cooldown_in_s=self.cooldown_in_s,
            up=None,
            down=1.0,
            damping=self.damping,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HeteroscaleState(ScalerState):
    """When it last decided, what, and when counts last moved."""

    decided_s: float = -math.inf
    clocks: Mapping[Stage, Clock] = field(default_factory=dict)
    last: Mapping[Stage, StagePlan] = field(default_factory=dict)


def heteroscale(
    signals: Signals, policy: ControlPolicy, state: ScalerState, now_s: float
) -> tuple[ScalePlan, ScalerState]:
    """Size decode by its throughput and prefill by the ratio, always.

    N_D = x_D / (mu_D · target), N_P = ratio · N_D, x_D the output tokens per second that decode gets done;
    a decision goes `damping` of the way, once the need has left the hysteresis band and the cooldown has
    passed.

    Source: HeteroScale (arXiv 2508.19559): decode TPS is its one robust signal; TTFT and TBT are guardrails.
    It knows no encode stage; ours follows its own throughput by the same rules. Inputs: what decode and
    encode get done, the multiples of the SLO. Choose it for text services with a stable mix: images load
    prefill and not decode, so with them the right ratio moves and this one does not.
    """
    params, mine = params_of(policy, HeteroscaleParams), own(state, HeteroscaleState)
    counts = {stage: asked(signals, mine, stage) for stage in Stage}
    if now_s - mine.decided_s < params.period_s:
        standing = {s: propose(counts[s], plan.reason, plan.need) for s, plan in mine.last.items()}
        return ScalePlan(stages=standing), mine
    stages = _decided(signals, policy, params, mine, counts, now_s)
    clocks = {s: clock_of(mine.clocks, s, now_s).after(counts[s], stages[s].replicas, now_s) for s in Stage}
    return ScalePlan(stages=stages), replace(mine, decided_s=now_s, clocks=clocks, last=stages)


def _decided(
    signals: Signals,
    policy: ControlPolicy,
    params: HeteroscaleParams,
    state: HeteroscaleState,
    counts: Mapping[Stage, int],
    now_s: float,
) -> dict[Stage, StagePlan]:
    worst = worst_ratio(signals)
    stages = {Stage.ENCODE: _encode(signals, policy, params, state, counts[Stage.ENCODE], now_s)}
    need = throughput_need(signals.stages[DECODE].done, signals.stages[DECODE], params.target)
    if need is None:
        return stages | {s: propose(counts[s], ScaleReason.NO_SIGNAL) for s in (PREFILL, DECODE)}
    sides = {
        stage: Side(
            count=counts[stage],
            need=wanted,
            rules=params.rules,
            bounds=policy.stages[stage],
            clock=clock_of(state.clocks, stage, now_s),
        )
        for stage, wanted in ((PREFILL, params.ratio * need), (DECODE, need))
    }
    both = together(sides[PREFILL], sides[DECODE], now_s)
    moves = {PREFILL: both[0], DECODE: both[1]}
    if params.guardrail and worst is not None and worst > BREACH and to_blame(signals) is not Stage.ENCODE:
        moves |= _guarded(signals, sides, moves, params, worst, now_s)
    moves[PREFILL] = _by_ratio(moves[PREFILL])
    return stages | {s: propose(*moves[s], sides[s].need) for s in sides}


def _encode(
    signals: Signals,
    policy: ControlPolicy,
    params: HeteroscaleParams,
    state: HeteroscaleState,
    count: int,
    now_s: float,
) -> StagePlan:
    seen = signals.stages[Stage.ENCODE]
    need = throughput_need(seen.done, seen, params.encode_target)
    if need is None:
        return propose(count, ScaleReason.NO_SIGNAL)
    clock, bounds = clock_of(state.clocks, Stage.ENCODE, now_s), policy.stages[Stage.ENCODE]
    return propose(*step(count, need, params.rules, clock, bounds, now_s), need)


def _guarded(
    signals: Signals,
    sides: Mapping[Stage, Side],
    moves: Mapping[Stage, tuple[int, ScaleReason]],
    params: HeteroscaleParams,
    worst: float,
    now_s: float,
) -> dict[Stage, tuple[int, ScaleReason]]:
    """Return both counts after a fixed step, once the last growth has come to bear."""
    grown_s = max(side.clock.grown_s for side in sides.values())
    if now_s - grown_s < params.cooldown_out_s or any(signals.stages[s].coming for s in sides):
        return {}
    steps = {s: bounded(growth(side.count, worst), side.bounds) for s, side in sides.items()}
    return {s: (n, ScaleReason.GUARDRAIL) for s, n in steps.items() if n > moves[s][0]}


def _by_ratio(move: tuple[int, ScaleReason]) -> tuple[int, ScaleReason]:
    return (move[0], ScaleReason.RATIO) if move[1] is ScaleReason.DEMAND else move
