"""From a need to a count: rounding, hysteresis, cooldown and step limits."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from orchestrator.core.planned import ScaleReason, StageBounds
from stages.types import Stage

_ROUNDING = 2e-3
"""Needs are known to a relative precision of 1e-3: what is above a whole number by less is that number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRules:
    """When a count may move, and how far at once.

    Attributes:
        hysteresis_out: No growth while the need is within this fraction above the count.
        hysteresis_in: No shrinking while it is within this fraction below.
        cooldown_out_s: Between two growths.
        cooldown_in_s: From the last change of either direction to a shrinking.
        up: Growth at once at most, as a fraction of the count and at least one replica; None for no limit.
        down: Shrinking at once at most, likewise.
        damping: Fraction of the way to the need that one step goes, at least one replica.
    """

    hysteresis_out: float
    hysteresis_in: float
    cooldown_out_s: float
    cooldown_in_s: float
    up: float | None
    down: float
    damping: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """When a count last moved."""

    grown_s: float = -math.inf
    moved_s: float = -math.inf

    def after(self, before: int, now: int, now_s: float) -> "Clock":
        """Return it after a decision."""
        if now > before:
            return Clock(grown_s=now_s, moved_s=now_s)
        return replace(self, moved_s=now_s) if now < before else self


def clock_of(clocks: Mapping[Stage, Clock], stage: Stage, now_s: float) -> Clock:
    """Return a stage's clock; one that starts now for the first decision.

    So a controller that has just started, and knows little, may grow at once and not shrink.
    """
    return clocks.get(stage) or Clock(moved_s=now_s)


def whole(need: float) -> int:
    """Return the count that a need takes."""
    return math.ceil(need - _ROUNDING * max(1.0, need))


def bounded(replicas: int, bounds: StageBounds) -> int:
    """Return a count within the stage's bounds."""
    return min(max(replicas, bounds.min), bounds.max)


def aim(count: int, need: float, rules: StepRules, bounds: StageBounds) -> int:
    """Return the count to go for: the need, or `damping` of the way there, within the bounds."""
    target = whole(need)
    if rules.damping < 1.0:
        damped = whole(count + rules.damping * (need - count))
        target = damped if target >= count else max(target, min(count - 1, damped))
    return bounded(target, bounds)


def wants_out(count: int, need: float, rules: StepRules) -> bool:
    """Return whether the need exceeds the count by more than the hysteresis."""
    return whole(need) > count and need > count * (1.0 + rules.hysteresis_out)


def wants_in(count: int, need: float, rules: StepRules) -> bool:
    """Return whether the need falls short of the count by more than the hysteresis."""
    return whole(need) < count and need < count * (1.0 - rules.hysteresis_in)


def most_up(count: int, rules: StepRules) -> float:
    """Return the most replicas that may be added at once; without limit from zero."""
    return math.inf if rules.up is None or count == 0 else max(1, math.ceil(rules.up * count))


def most_down(count: int, rules: StepRules) -> int:
    """Return the most replicas that may go at once."""
    return max(1, math.floor(rules.down * count))


def step(
    count: int, need: float, rules: StepRules, clock: Clock, bounds: StageBounds, now_s: float
) -> tuple[int, ScaleReason]:
    """Return the next count of a stage that moves by itself, and why.

    Δ ∈ [−max(1, ⌊down·N⌋), max(1, ⌈up·N⌉)] towards ⌈need⌉, once the need has left the hysteresis band
    and the cooldown has passed.
    """
    target = aim(count, need, rules, bounds)
    if target > count and wants_out(count, need, rules):
        if now_s - clock.grown_s < rules.cooldown_out_s:
            return count, ScaleReason.COOLDOWN
        return limited(count, target, rules)
    if target < count and wants_in(count, need, rules):
        if now_s - clock.moved_s < rules.cooldown_in_s:
            return count, ScaleReason.COOLDOWN
        return limited(count, target, rules)
    return count, ScaleReason.DEMAND if target == count else ScaleReason.WITHIN_TOLERANCE


def limited(count: int, target: int, rules: StepRules) -> tuple[int, ScaleReason]:
    """Return the count as near to the target as one step comes, and why."""
    high = count + most_up(count, rules)
    low = count - most_down(count, rules)
    nearest = int(min(max(target, low), high))
    return nearest, ScaleReason.DEMAND if nearest == target else ScaleReason.STEP_LIMIT
