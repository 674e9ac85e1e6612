"""periodic: counts by the hour of the day."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from orchestrator.core.infeasible import InfeasibleError
from orchestrator.core.observed import Signals
from orchestrator.core.planned import ControlPolicy, ScalePlan, ScaleReason, ScalerState
from orchestrator.core.scaling.params import FROM_FILE, Params, count, params_of
from orchestrator.core.scaling.scaler import propose
from stages.types import Stage

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """Counts from an hour on.

    Attributes:
        hour: Of the day, 8.5 for half past eight; 0 to below 24.
        encode: Replicas of encode; ≥ 0.
        prefill: Replicas of prefill; ≥ 0.
        decode: Replicas of decode; ≥ 0.
    """

    __pydantic_config__: ClassVar[Mapping[str, object]] = FROM_FILE

    hour: float
    encode: int
    prefill: int
    decode: int

    def __post_init__(self) -> None:
        if not 0.0 <= self.hour < 24.0:
            raise InfeasibleError(f"{self.hour:g} is not from 0 to below 24", "hour")
        count(self, "encode", "prefill", "decode")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodicParams(Params):
    """The table.

    Attributes:
        hours: Entries {hour, encode, prefill, decode}, of which the last holds over midnight; required,
            hours ascending, 0 to below 24, counts ≥ 0.
        midnight_s: What the controller's clock shows at some midnight; any number of seconds.
    """

    hours: tuple[Hour, ...] = ()
    midnight_s: float = 0.0

    def __post_init__(self) -> None:
        Params.__post_init__(self)
        hours = [entry.hour for entry in self.hours]
        if not hours:
            raise InfeasibleError("is missing: at least one entry {hour, encode, prefill, decode}", "hours")
        if sorted(set(hours)) != hours:
            raise InfeasibleError("hours are not ascending", "hours")


def periodic(
    signals: Signals, policy: ControlPolicy, state: ScalerState, now_s: float
) -> tuple[ScalePlan, ScalerState]:
    """Keep the counts that a table has for the hour.

    N = the entry with the largest hour that is not after now.

    Source: HeteroScale's periodic policy (arXiv 2508.19559), a Kubernetes CronJob in effect. Inputs: the
    clock. Choose it where every day is alike, or beneath known events; it sees no burst at all.
    """
    params = params_of(policy, PeriodicParams)
    hour = (now_s - params.midnight_s) % DAY_S / 3600.0
    entry = next((e for e in reversed(params.hours) if e.hour <= hour), params.hours[-1])
    counts = {Stage.ENCODE: entry.encode, Stage.PREFILL: entry.prefill, Stage.DECODE: entry.decode}
    return ScalePlan(stages={s: propose(n, ScaleReason.SCHEDULE) for s, n in counts.items()}), state
