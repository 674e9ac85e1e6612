"""modserve: load over capacity, every few minutes or when the SLO suffers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.core.observed import Signals
from orchestrator.core.planned import ControlPolicy, ScalePlan, ScaleReason, ScalerState, StagePlan
from orchestrator.core.scaling.params import Params, above_zero, fraction, of_stage, params_of
from orchestrator.core.scaling.scaler import asked, own, propose
from orchestrator.core.scaling.sizing import throughput_need
from orchestrator.core.scaling.steps import whole
from stages.types import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class ModserveParams(Params):
    """Parameters of modserve.

    Attributes:
        headroom: Fraction of a replica's rate that counts as its capacity; above 0 to 1.
        encode_headroom: The same for encode, null: `headroom`; above 0 to 1.
        decode_headroom: The same for decode, null: `headroom`; above 0 to 1.
        period_s: Between two decisions; above 0.
        trigger_s: Between two decisions while attainment is too low; above 0.
        attainment: A decision is due earlier below this attainment; above 0 to 1.
    """

    headroom: float = 0.8
    encode_headroom: float | None = None
    decode_headroom: float | None = None
    period_s: float = 300.0
    trigger_s: float = 30.0
    attainment: float = 0.99

    def __post_init__(self) -> None:
        Params.__post_init__(self)
        fraction(self, "headroom", "encode_headroom", "decode_headroom", "attainment")
        above_zero(self, "period_s", "trigger_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModserveState(ScalerState):
    """When it last decided, and what."""

    decided_s: float = -math.inf
    last: Mapping[Stage, StagePlan] = field(default_factory=dict)


def modserve(
    signals: Signals, policy: ControlPolicy, state: ScalerState, now_s: float
) -> tuple[ScalePlan, ScalerState]:
    """Give the image pool and the text pools what their offered tokens take.

    N = ceil(load / capacity) every 300 s, or when attainment is under 0.99. Load: image tokens/s for encode;
    prompt tokens/s for prefill, text tokens only for cross-attention models; output tokens/s for decode.

    Source: ModServe (arXiv 2502.00937), whose one text pool is our prefill and decode. Inputs: offered token
    rates, attainment, the profile's rates. Choose it for steady modality mixes: capacity is a constant, so
    neither bursts within the period nor queues are seen.
    """
    params, mine = params_of(policy, ModserveParams), own(state, ModserveState)
    suffers = signals.attainment is not None and signals.attainment < params.attainment
    if now_s - mine.decided_s < (params.trigger_s if suffers else params.period_s):
        standing = {s: propose(asked(signals, mine, s), p.reason, p.need) for s, p in mine.last.items()}
        return ScalePlan(stages=standing), mine
    stages = {s: _sized(signals, policy, params, s, asked(signals, mine, s)) for s in Stage}
    return ScalePlan(stages=stages), replace(mine, decided_s=now_s, last=stages)


def loads(signals: Signals, kappa: int) -> Mapping[Stage, float]:
    """Return the offered units per second by stage, hits of either cache left out."""
    return {
        Stage.ENCODE: signals.image_tokens * (1.0 - signals.embedding_hits),
        Stage.PREFILL: (signals.text_tokens + kappa * signals.image_tokens) * (1.0 - signals.prefix_hits),
        Stage.DECODE: signals.requests * signals.output_tokens,
    }


def _sized(
    signals: Signals, policy: ControlPolicy, params: ModserveParams, stage: Stage, count: int
) -> StagePlan:
    need = throughput_need(
        loads(signals, policy.kappa)[stage], signals.stages[stage], of_stage(params, "headroom", stage)
    )
    if need is None:
        return propose(count, ScaleReason.NO_SIGNAL)
    return propose(whole(need), ScaleReason.DEMAND, need)
