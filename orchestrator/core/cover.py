"""Ways to reach a capacity with replicas of several hardware classes."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from orchestrator.core.hardware import Option

MOST_COVERS = 4_096
"""Beyond so many combinations, those of more than two hardware classes are left out."""


class Cover(NamedTuple):
    """Replicas of each option that together reach a capacity, none of them superfluous."""

    cost_per_h: float
    counts: tuple[int, ...]


def covers(options: Sequence[Option], need: float) -> list[Cover]:
    """Return all minimal covers of a need, cheapest first, then of fewest replicas and best hardware.

    Args:
        options: Best first.
        need: In replicas of weight 1, > 0.
    """
    combinations = math.prod([_enough(option, need) + 1 for option in options[1:]])
    most = len(options) if combinations <= MOST_COVERS else 2
    found = [
        Cover(sum([n * o.cost_per_h for n, o in zip(counts, options, strict=True)]), counts)
        for counts in _counts(options, need, most)
    ]
    return sorted(found, key=lambda c: (round(c.cost_per_h, 9), sum(c.counts), [-n for n in c.counts]))


def _counts(options: Sequence[Option], need: float, most: int) -> Iterator[tuple[int, ...]]:
    """Yield minimal counts that use at most `most` options."""
    if not options:
        return
    first, rest = options[0], options[1:]
    enough = _enough(first, need)
    if enough == 0:
        yield (0,) * len(options)
        return
    if most == 0:
        return
    yield (enough, *(0 for _ in rest))
    for count in range(enough):
        lack = need - count * first.weight
        for others in _counts(rest, lack, most - 1 if count else most):
            over = sum([n * o.weight for n, o in zip(others, rest, strict=True)]) - lack
            if not count or over < first.weight - 1e-9:
                yield (count, *others)


def _enough(option: Option, need: float) -> int:
    return max(0, math.ceil(need / option.weight - 1e-6))
