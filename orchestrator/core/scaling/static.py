"""static, static-best: fixed counts."""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.core.infeasible import InfeasibleError
from orchestrator.core.observed import Signals
from orchestrator.core.planned import ControlPolicy, ScalePlan, ScaleReason, ScalerState
from orchestrator.core.scaling.params import Params, count, params_of
from orchestrator.core.scaling.scaler import propose
from stages.types import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticParams(Params):
    """Counts to keep.

    Attributes:
        encode: Replicas of encode, null: its min, and one if that is 0; ≥ 0.
        prefill: Replicas of prefill, likewise; ≥ 0.
        decode: Replicas of decode, likewise; ≥ 0.
    """

    encode: int | None = None
    prefill: int | None = None
    decode: int | None = None

    def __post_init__(self) -> None:
        Params.__post_init__(self)
        count(self, "encode", "prefill", "decode")


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticBestParams(StaticParams):
    """Counts that were found best for a trace.

    Attributes:
        encode: Replicas of encode; required, ≥ 0.
        prefill: Replicas of prefill; required, ≥ 0.
        decode: Replicas of decode; required, ≥ 0.
    """

    def __post_init__(self) -> None:
        StaticParams.__post_init__(self)
        for name in ("encode", "prefill", "decode"):
            if getattr(self, name) is None:
                raise InfeasibleError("is missing: `tercet tune` finds the counts for a trace", name)


def static(
    signals: Signals, policy: ControlPolicy, state: ScalerState, now_s: float
) -> tuple[ScalePlan, ScalerState]:
    """Keep fixed counts, whatever the load.

    N = params, or the stage's min.

    Source: a fleet provisioned by hand. Inputs: none. Choose it where load is flat or accelerators are
    paid for anyway; it never starts cold and never saves anything.
    """
    counts = fixed_counts(policy, params_of(policy, StaticParams))
    return ScalePlan(stages={stage: propose(n, ScaleReason.FIXED) for stage, n in counts.items()}), state


def static_best(
    signals: Signals, policy: ControlPolicy, state: ScalerState, now_s: float
) -> tuple[ScalePlan, ScalerState]:
    """Keep the fixed counts that were found best for a trace: the cheapest that meet its SLO.

    N = params, all three required.

    Source: ModServe (arXiv 2502.00937) compares with the best static split. Inputs: none at run time;
    `tercet tune` finds the counts from a trace. Choose it as the yardstick of what autoscaling saves.
    """
    return static(signals, policy, state, now_s)


def fixed_counts(policy: ControlPolicy, params: StaticParams) -> Mapping[Stage, int]:
    """Return the counts by stage."""
    named = {Stage.ENCODE: params.encode, Stage.PREFILL: params.prefill, Stage.DECODE: params.decode}
    return {s: max(1, policy.stages[s].min) if n is None else n for s, n in named.items()}
