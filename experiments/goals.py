"""What an experiment was to show, and what became of it: a line for each goal, from what was measured."""

import math

from experiments.stats import Interval


def goal(
    what: str, found: Interval, *, unit: str = "", low: float = -math.inf, high: float = math.inf
) -> str:
    """Say what was wanted, what was measured, and whether one meets the other.

    Args:
        what: With its figures, for people.
        found: What was measured.
        unit: Of that, with the space before it.
        low: The least that meets the goal.
        high: The most that does.
    """
    return f"- Goal: {what}. Measured: {found.text}{unit}: {verdict(found, low, high)}.\n"


def verdict(found: Interval, low: float = -math.inf, high: float = math.inf) -> str:
    """Say on which side of its bounds a figure is, with its whole interval."""
    if math.isnan(found.mean):
        return "not measured"
    if low <= found.low and found.high <= high:
        return "met"
    if found.high < low:
        return "missed, below"
    return "missed, above" if found.low > high else "undecided, the interval reaches over a bound"
