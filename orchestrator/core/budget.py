"""The budget clamp: counts that were proposed, lowered until all fit into the accelerators allowed."""

import math
from collections.abc import Mapping

from stages.types import Stage

Counts = Mapping[Stage, int]

REGAIN = 1.1
"""Running replicas are taken from a stage for another only if that serves so many times as much work."""


def fit(wanted: Counts, floors: Counts, running: Counts, tp: Counts, budget: int) -> dict[Stage, int]:
    """Return counts with Σ tp·N ≤ budget, none above its proposal and none below its floor.

    What passes all stages is what the least supplied one lets through, so all are lowered to the same
    fraction of their proposals and what is then left goes to the least supplied. Proposals that move a
    little every time would shift replicas to and fro: so nobody gives up running ones unless the least
    supplied stage gains by a tenth.

    Args:
        wanted: Proposals, each at least its floor.
        floors: Fewest replicas; returned as they are if even they exceed the budget.
        running: Replicas that are there or on the way.
        tp: Accelerators of one replica.
        budget: Accelerators at most.
    """
    if cost(wanted, tp) <= budget:
        return dict(wanted)
    shared = _share(wanted, floors, tp, budget)
    kept = {stage: min(wanted[stage], max(floors[stage], running[stage])) for stage in wanted}
    if cost(kept, tp) > budget:
        return shared
    grown = _share(wanted, kept, tp, budget)
    return shared if _least(shared, wanted) > REGAIN * _least(grown, wanted) else grown


def cost(counts: Counts, tp: Counts) -> int:
    """Return the accelerators that counts take."""
    return sum(n * tp[stage] for stage, n in counts.items())


def _share(wanted: Counts, floors: Counts, tp: Counts, budget: int) -> dict[Stage, int]:
    """Return the largest equal fraction of the proposals that fits, none below its floor, then fill up."""
    free = [stage for stage in wanted if wanted[stage] > floors[stage]]
    while free:
        spare = budget - sum(floors[s] * tp[s] for s in wanted if s not in free)
        share = spare / sum(wanted[s] * tp[s] for s in free)
        above = [s for s in free if share * wanted[s] > floors[s]]
        if len(above) == len(free):
            counts = {s: math.floor(share * wanted[s]) if s in free else floors[s] for s in wanted}
            return _filled(counts, wanted, tp, budget)
        free = above
    return _filled(dict(floors), wanted, tp, budget)


def _filled(counts: dict[Stage, int], wanted: Counts, tp: Counts, budget: int) -> dict[Stage, int]:
    """Add replicas to the least supplied stage that still fits, until none does."""
    spare = budget - cost(counts, tp)
    while short := [s for s in counts if counts[s] < wanted[s] and tp[s] <= spare]:
        stage = min(short, key=lambda s: (counts[s] / wanted[s], s))
        counts[stage] += 1
        spare -= tp[stage]
    return counts


def _least(counts: Counts, wanted: Counts) -> float:
    """Return the supply of the least supplied stage as a fraction of its proposal."""
    return min((counts[s] / n for s, n in wanted.items() if n), default=1.0)
