"""independent-tps: each stage from its own throughput, knowing nothing of the others."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.core.observed import Signals
from orchestrator.core.planned import ControlPolicy, ScalePlan, ScaleReason, ScalerState
from orchestrator.core.scaling.params import Params, fraction, not_negative, of_stage, params_of
from orchestrator.core.scaling.scaler import asked, own, propose
from orchestrator.core.scaling.sizing import throughput_need
from orchestrator.core.scaling.steps import Clock, StepRules, clock_of, step
from stages.types import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class IndependentTpsParams(Params):
    """Parameters of independent-tps.

    Attributes:
        target: Throughput aimed at, as a fraction of the profile's; above 0 to 1.
        encode_target: The same for encode, null: `target`; above 0 to 1.
        decode_target: The same for decode, null: `target`; above 0 to 1.
        hysteresis_out: No growth while the need is within this fraction above the count; ≥ 0.
        hysteresis_in: No shrinking while it is within this fraction below; ≥ 0.
        cooldown_out_s: Between two growths; ≥ 0.
        cooldown_in_s: From any change to a shrinking; ≥ 0.
    """

    target: float = 0.7
    encode_target: float | None = None
    decode_target: float | None = None
    hysteresis_out: float = 0.10
    hysteresis_in: float = 0.20
    cooldown_out_s: float = 30.0
    cooldown_in_s: float = 300.0

    def __post_init__(self) -> None:
        Params.__post_init__(self)
        fraction(self, "target", "encode_target", "decode_target")
        not_negative(self, "hysteresis_out", "hysteresis_in", "cooldown_out_s", "cooldown_in_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndependentTpsState(ScalerState):
    """When counts last moved."""

    clocks: Mapping[Stage, Clock] = field(default_factory=dict)


def independent_tps(
    signals: Signals, policy: ControlPolicy, state: ScalerState, now_s: float
) -> tuple[ScalePlan, ScalerState]:
    """Bring each stage's throughput per replica to a target.

    N' = ceil(x / (mu · target)), x the units per second that the stage gets done.

    Source: the signal study of HeteroScale (arXiv 2508.19559) finds throughput linear and clean; without
    its coupling by the ratio. Inputs: what each stage gets done, the profile's rates. Choose it as the
    baseline that shows what coupling is worth: a stage starved by its upstream shrinks, then is short
    when the upstream has grown.
    """
    params, mine = params_of(policy, IndependentTpsParams), own(state, IndependentTpsState)
    rules = StepRules(
        hysteresis_out=params.hysteresis_out,
        hysteresis_in=params.hysteresis_in,
        cooldown_out_s=params.cooldown_out_s,
        cooldown_in_s=params.cooldown_in_s,
        up=None,
        down=1.0,
    )
    stages, clocks = {}, {}
    for stage in Stage:
        seen, count, clock = (
            signals.stages[stage],
            asked(signals, mine, stage),
            clock_of(mine.clocks, stage, now_s),
        )
        need = throughput_need(seen.done, seen, of_stage(params, "target", stage))
        if need is None:
            target, reason = count, ScaleReason.NO_SIGNAL
        else:
            target, reason = step(count, need, rules, clock, policy.stages[stage], now_s)
        stages[stage] = propose(target, reason, need)
        clocks[stage] = clock.after(count, target, now_s)
    return ScalePlan(stages=stages), replace(mine, clocks=clocks)
