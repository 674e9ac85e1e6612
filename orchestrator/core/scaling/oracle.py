"""oracle, oracle-zero-lag: full foresight, for simulators only."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.core.observed import Signals
from orchestrator.core.planned import ControlPolicy, ScalePlan, ScaleReason, ScalerState
from orchestrator.core.scaling.params import Params, params_of
from orchestrator.core.scaling.scaler import propose
from stages.types import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class OracleParams(Params):
    """What will be needed; a simulator knows, a policy file cannot.

    Attributes:
        times_s: From when on each entry holds, ascending.
        counts: Replicas by stage, one for each time.
    """

    times_s: tuple[float, ...] = ()
    counts: Mapping[Stage, tuple[int, ...]] = field(default_factory=dict)


def oracle(
    signals: Signals, policy: ControlPolicy, state: ScalerState, now_s: float
) -> tuple[ScalePlan, ScalerState]:
    """Have what will be needed when it is needed, with the same cold starts as everybody.

    N(t) = max need(u), t ≤ u ≤ t + lead: a replica is started one lead before its need, and one that would
    be needed again within a lead stays.

    Source: the usual yardstick of autoscaling. Inputs: the future. Nobody can choose it.
    """
    leads_s = {stage: policy.stages[stage].lead_s for stage in Stage}
    return _foreseen(policy, leads_s, now_s), state


def oracle_zero_lag(
    signals: Signals, policy: ControlPolicy, state: ScalerState, now_s: float
) -> tuple[ScalePlan, ScalerState]:
    """Have what is needed at each moment, as if replicas started at once: a bound and no policy.

    N(t) = need(t).

    Source and inputs: as for `oracle`. Nobody can choose it.
    """
    return _foreseen(policy, dict.fromkeys(Stage, 0.0), now_s), state


def _foreseen(policy: ControlPolicy, leads_s: Mapping[Stage, float], now_s: float) -> ScalePlan:
    table = params_of(policy, OracleParams)
    if not table.times_s:
        raise ValueError(f"{policy.scaling} knows the future: only a simulator can give it that")
    first = max(0, bisect_right(table.times_s, now_s) - 1)
    ends = {stage: bisect_right(table.times_s, now_s + leads_s[stage]) for stage in Stage}
    needs = {s: max(table.counts[s][first : max(ends[s], first + 1)]) for s in Stage}
    return ScalePlan(stages={s: propose(n, ScaleReason.SCHEDULE) for s, n in needs.items()})
