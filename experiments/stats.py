"""Means with their intervals, over seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145)
"""Student's t at 0.975 for 1, 2, … degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the half width of its 95 % interval; NaN with a single value."""

    mean: float
    half: float

    @property
    def text(self) -> str:
        """The interval for people, with as many digits as it deserves."""
        if math.isnan(self.mean):
            return "–"
        digits = max(0, 2 - math.floor(math.log10(abs(self.mean)))) if self.mean else 2
        digits = min(digits, 4)
        spread = "" if math.isnan(self.half) else f" ± {self.half:,.{digits}f}"
        return f"{self.mean:,.{digits}f}{spread}"


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of independent values and the half width of its 95 % interval by Student's t."""
    if not values:
        return Interval(math.nan, math.nan)
    if len(values) < 2:
        return Interval(values[0], math.nan)
    free = len(values) - 1
    t = _T_975[free - 1] if free <= len(_T_975) else 1.96 + 2.5 / free
    return Interval(fmean(values), t * stdev(values) / math.sqrt(len(values)))


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return value over other, seed by seed: both saw the same random numbers, so that much cancels out."""
    return [value / other for value, other in zip(values, others, strict=False) if other]


def precise(values: Sequence[float], tolerance: float) -> bool:
    """Return whether the interval of these values is within `tolerance` of their mean."""
    found = interval(values)
    return found.half <= tolerance * abs(found.mean) or (not found.mean and not found.half)
