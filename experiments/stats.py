"""Comparisons of runs that saw the same random numbers, and when there have been enough of them."""

from collections.abc import Sequence

from orchestrator.simulator.intervals import Interval, interval

__all__ = ["Interval", "interval", "precise", "ratios"]


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return value over other, seed by seed: both saw the same random numbers, so that much cancels out."""
    return [value / other for value, other in zip(values, others, strict=False) if other]


def precise(values: Sequence[float], tolerance: float) -> bool:
    """Return whether the interval of these values is within `tolerance` of their mean."""
    found = interval(values)
    return found.half <= tolerance * abs(found.mean)
