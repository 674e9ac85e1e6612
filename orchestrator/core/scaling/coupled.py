"""coupled: the three stages sized together from the flow of work between them."""

from dataclasses import dataclass, replace

from orchestrator.core.control_types import (
    ControlPolicy,
    ScalePlan,
    ScaleReason,
    ScalerState,
    Signals,
    StagePlan,
)
from orchestrator.core.scaling.coupled_params import CoupledParams
from orchestrator.core.scaling.flow import Flow
from orchestrator.core.scaling.params import params_of
from orchestrator.core.scaling.scaler import asked, own, propose
from orchestrator.core.scaling.steps import NEVER, Clock, StepRules, step
from stages.types import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class CoupledState(ScalerState):
    """What coupled remembers."""

    encode: Clock = NEVER
    prefill: Clock = NEVER
    decode: Clock = NEVER


def coupled(
    signals: Signals, policy: ControlPolicy, state: ScalerState, now_s: float
) -> tuple[ScalePlan, ScalerState]:
    """Size the three stages together."""
    params, mine = params_of(policy, CoupledParams), own(state, CoupledState)
    flow = Flow(
        signals=signals,
        policy=policy,
        params=params,
        text_tokens=signals.text_tokens,
        requests=signals.requests,
    )
    counts = {stage: asked(signals, state, stage) for stage in Stage}

    def move(stage: Stage, need: float | None, rules: StepRules, clock: Clock) -> tuple[StagePlan, Clock]:
        count = counts[stage]
        if need is None:
            return propose(count, ScaleReason.NO_SIGNAL), clock
        target, reason = step(count, need, rules, clock, policy.stages[stage], now_s)
        return propose(target, reason, need), clock.after(count, target, now_s)

    encode, e_clock = move(
        Stage.ENCODE, flow.encode().at(counts[Stage.ENCODE]), params.encode_rules, mine.encode
    )
    prefill, p_clock = move(
        Stage.PREFILL,
        flow.prefill(encode.replicas).at(counts[Stage.PREFILL]),
        params.rules,
        mine.prefill,
    )
    decode, d_clock = move(
        Stage.DECODE,
        flow.decode(prefill.replicas).at(counts[Stage.DECODE]),
        params.rules,
        mine.decode,
    )
    return ScalePlan(stages={Stage.ENCODE: encode, Stage.PREFILL: prefill, Stage.DECODE: decode}), replace(
        mine, encode=e_clock, prefill=p_clock, decode=d_clock
    )
