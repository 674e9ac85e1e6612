"""Means over seeds with their intervals, and when there are seeds enough."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t for 1 to 9 degrees of freedom; 2 beyond, which is within 12 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean, and how far its 95 % interval goes to either side; infinite for a single run."""

    mean: float
    half: float

    @property
    def low(self) -> float:
        """The lower end; of a single run, which has no interval, the run's own value."""
        return self.mean if math.isinf(self.half) else self.mean - self.half

    @property
    def high(self) -> float:
        """The upper end, likewise."""
        return self.mean if math.isinf(self.half) else self.mean + self.half

    @property
    def text(self) -> str:
        """The mean in three digits, with the half width if there is one; a dash for nothing."""
        if math.isnan(self.mean):
            return "–"
        digits = min(4, max(0, 2 - math.floor(math.log10(abs(self.mean))))) if self.mean else 2
        spread = "" if math.isinf(self.half) else f" ± {self.half:,.{digits}f}"
        return f"{self.mean:,.{digits}f}{spread}"


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of values that vary by chance, with its interval; NaN of no values."""
    if len(values) < 2:
        return Interval(mean=fmean(values) if values else math.nan, half=math.inf)
    freedom = len(values) - 1
    t = _T_975[freedom - 1] if freedom <= len(_T_975) else 2.0
    return Interval(mean=fmean(values), half=t * stdev(values) / len(values) ** 0.5)


def precise(values: Sequence[float], tolerance: float) -> bool:
    """Return whether the interval of these values is within `tolerance` of their mean."""
    found = interval(values)
    return found.half <= tolerance * abs(found.mean)
