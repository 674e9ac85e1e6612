"""Prefill and decode move together or not at all.

Their counts come from one moment's demand and so have one moment's ratio: if one of them has to move and
may, both go to their needs at once, and a step limit on one shortens the way of both.
"""

import math
from dataclasses import dataclass

from orchestrator.core.planned import ScaleReason, StageBounds
from orchestrator.core.scaling.steps import (
    Clock,
    StepRules,
    aim,
    limited,
    most_down,
    most_up,
    wants_in,
    wants_out,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two stages."""

    count: int
    need: float
    rules: StepRules
    bounds: StageBounds
    clock: Clock

    @property
    def target(self) -> int:
        """The count that it aims at, within its bounds."""
        return aim(self.count, self.need, self.rules, self.bounds)

    @property
    def out(self) -> bool:
        """Whether it has to grow and can."""
        return self.target > self.count and wants_out(self.count, self.need, self.rules)

    @property
    def inward(self) -> bool:
        """Whether it has to shrink and can."""
        return self.target < self.count and wants_in(self.count, self.need, self.rules)


Moves = tuple[tuple[int, ScaleReason], tuple[int, ScaleReason]]


def together(prefill: Side, decode: Side, now_s: float, *, switch: tuple[Side, Side] | None = None) -> Moves:
    """Return both next counts with their reasons.

    Args:
        prefill: One side, whose rules hold for both.
        decode: The other; cooldowns count from the last move of either.
        now_s: Now.
        switch: Both by their needs of this moment, if a replica of the one can become one of the other:
            then what one can spare goes to the other without waiting, since nothing starts cold.
    """
    sides, rules = (prefill, decode), prefill.rules
    warm = now_s - max(s.clock.grown_s for s in sides) >= rules.cooldown_out_s
    settled = now_s - max(s.clock.moved_s for s in sides) >= rules.cooldown_in_s
    if any(s.out for s in sides):
        if not warm:
            return _kept(prefill, ScaleReason.COOLDOWN), _kept(decode, ScaleReason.COOLDOWN)
        if switch and (moves := _switched(*switch)):
            return moves
        shrinking = settled and all(s.out or s.inward for s in sides)
        return _moved([s.target if shrinking else max(s.target, s.count) for s in sides], sides)
    if any(s.inward for s in sides):
        if not settled:
            return _kept(prefill, ScaleReason.COOLDOWN), _kept(decode, ScaleReason.COOLDOWN)
        return _moved([s.target for s in sides], sides)
    return _kept(prefill, ScaleReason.WITHIN_TOLERANCE), _kept(decode, ScaleReason.WITHIN_TOLERANCE)


def _kept(side: Side, reason: ScaleReason) -> tuple[int, ScaleReason]:
    return side.count, ScaleReason.DEMAND if side.target == side.count else reason


def _moved(goals: list[int], sides: tuple[Side, Side]) -> Moves:
    """Go to the goals, or, where a step limit forbids that, the same fraction of the way with both.

    A shrinking does not hold a growth back.
    """
    ways = [
        (side, goal, _reach(side.count, goal, side.rules)) for side, goal in zip(sides, goals, strict=True)
    ]
    up = min((reach for side, goal, reach in ways if goal > side.count), default=1.0)
    down = min((reach for side, goal, reach in ways if goal < side.count), default=1.0)
    prefill, decode = (_part(side, goal, up if goal > side.count else down) for side, goal, _ in ways)
    return prefill, decode


def _reach(count: int, goal: int, rules: StepRules) -> float:
    """Return the fraction of a move that one step may take."""
    if goal == count:
        return 1.0
    most = most_up(count, rules) if goal > count else most_down(count, rules)
    return min(1.0, most / abs(goal - count))


def _part(side: Side, goal: int, share: float) -> tuple[int, ScaleReason]:
    """Return the count after a fraction of a move, growth rounded up and shrinking down."""
    way = round(share * (goal - side.count), 6)
    reached = side.count + math.ceil(way)
    if reached != goal:
        return reached, ScaleReason.STEP_LIMIT
    return _kept(side, ScaleReason.WITHIN_TOLERANCE) if goal == side.count else (goal, ScaleReason.DEMAND)


def _switched(prefill: Side, decode: Side) -> Moves | None:
    """Let the side that can spare replicas turn them into what the other needs; None if none can."""
    if prefill.out and decode.inward:
        grown, spared = _turned(prefill, decode)
        return (grown, ScaleReason.ROLE_SWITCH), (spared, ScaleReason.ROLE_SWITCH)
    if decode.out and prefill.inward:
        grown, spared = _turned(decode, prefill)
        return (spared, ScaleReason.ROLE_SWITCH), (grown, ScaleReason.ROLE_SWITCH)
    return None


def _turned(short: Side, spare: Side) -> tuple[int, int]:
    """Return both counts after as many replicas as can be spared, and are wanted, changed sides."""
    grown, _ = limited(short.count, short.target, short.rules)
    return grown, spare.count - min(grown - short.count, spare.count - spare.target)
