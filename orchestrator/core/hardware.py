"""On which hardware a stage may run, what a replica there is worth and what it costs."""

from typing import NamedTuple

from orchestrator.core.capacity import (
    PRIOR,
    Mix,
    decode_rate,
    encode_rate,
    kv_capacity_tokens,
    prefill_rate,
)
from orchestrator.core.planned import ControlPolicy
from orchestrator.core.profile import HardwareClass
from stages.types import Stage


class Option(NamedTuple):
    """One hardware class that a stage may run on.

    Attributes:
        weight: Replicas of the stage's first class that one of this class stands in for; > 0.
        cost_per_h: US dollars for one replica.
    """

    hardware: str
    tp: int
    weight: float
    cost_per_h: float


def options(policy: ControlPolicy, stage: Stage) -> tuple[Option, ...]:
    """Return the usable hardware classes of a stage, best first; none if the first is not profiled.

    Plans count replicas of the first class, so without its rate nothing can be compared with it.
    Decode rates are taken at a fixed mix of requests: a replica's weight must not change with traffic,
    or replicas would come and go with it.
    """
    bounds = policy.stages[stage]
    rates = {name: rate(policy, stage, HardwareClass(name, bounds.tp), PRIOR) for name in bounds.hardware}
    first = rates[bounds.hardware[0]] if bounds.hardware else 0.0
    return tuple(
        [
            Option(name, bounds.tp, rates[name] / first, policy.accelerators[name].cost_per_h * bounds.tp)
            for name in bounds.hardware
            if first > 0.0 and rates[name] > 0.0
        ]
    )


def weight(policy: ControlPolicy, stage: Stage, hardware: str, tp: int) -> float:
    """Return what an existing replica is worth; 1.0, as good as the first class, if it cannot be said."""
    bounds = policy.stages[stage]
    if not bounds.hardware or (hardware, tp) == (bounds.hardware[0], bounds.tp):
        return 1.0
    own = rate(policy, stage, HardwareClass(hardware, tp), PRIOR)
    first = rate(policy, stage, HardwareClass(bounds.hardware[0], bounds.tp), PRIOR)
    return own / first if own > 0.0 and first > 0.0 else 1.0


def rate(policy: ControlPolicy, stage: Stage, where: HardwareClass, mix: Mix) -> float:
    """Return units per second of one replica; 0.0 if the class is not profiled or the model does not fit."""
    profile = policy.profile
    if where not in profile.classes(stage) or where.hardware not in policy.accelerators:
        return 0.0
    if stage is Stage.ENCODE:
        return encode_rate(profile, where)
    if stage is Stage.PREFILL:
        return prefill_rate(profile, where)
    kv_tokens = kv_capacity_tokens(profile, stage, where, policy.accelerators)
    slots = policy.stages[stage].slots
    return decode_rate(profile, where, mix, tpot_s=policy.tpot_s, slots=slots, kv_tokens=kv_tokens)
