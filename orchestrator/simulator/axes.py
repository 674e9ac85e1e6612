"""Axes of plots: a range, its ticks with their texts, and where a value lies between the ends."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_STEPS_S = (
    1,
    2,
    5,
    10,
    20,
    30,
    60,
    120,
    300,
    600,
    1_200,
    1_800,
    3_600,
    7_200,
    10_800,
    21_600,
    43_200,
    86_400,
)
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_TICKS_AT_MOST = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis.

    Attributes:
        label: What it measures, with the unit.
        ticks: Values with their texts.
        log: Whether equal distances are equal factors; then `low` is above 0.
    """

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def at(self, value: float) -> float:
        """Return how far a value lies from `low` to `high`, 0.0 to 1.0; what is outside goes to the end."""
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low)


def time_axis(span_s: float) -> Axis:
    """Return an axis from 0 to `span_s` in seconds, minutes, hours or days."""
    span_s = max(span_s, 1.0)
    most = _TICKS_AT_MOST - 1
    step_s = next((s for s in _STEPS_S if span_s / s <= most), 86_400 * math.ceil(span_s / most / 86_400))
    unit_s, unit = next((size, name) for size, name in _UNITS if step_s >= size)
    return Axis(label=f"time ({unit})", low=0.0, high=span_s, ticks=_ticks(span_s, step_s, unit_s))


def linear_axis(label: str, high: float, *, whole: bool = False) -> Axis:
    """Return an axis from 0 to a round number above `high`.

    Args:
        label: What it measures, with the unit.
        high: The largest value.
        whole: Whether it counts things, so that ticks are whole numbers.
    """
    step = _round_step(max(high, 1e-9) / 4, (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10))
    step = max(1.0, step) if whole else step
    top = step * max(1, math.ceil(high / step - 1e-9))
    return Axis(label=label, low=0.0, high=top, ticks=_ticks(top, step, 1.0))


def log_axis(label: str, values: Iterable[float]) -> Axis:
    """Return an axis of the powers of ten around the positive ones of `values`."""
    known = [value for value in values if value > 0.0] or [1.0]
    low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    powers = range(low, max(high, low + 1) + 1)
    ticks = tuple((10.0**power, f"{10.0**power:g}") for power in powers)
    return Axis(label=label, low=ticks[0][0], high=ticks[-1][0], ticks=ticks, log=True)


def _round_step(step: float, factors: Sequence[float]) -> float:
    """Return the next of `factors` times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in factors if power * factor >= step * (1 - 1e-9))


def _ticks(high: float, step: float, unit: float) -> tuple[tuple[float, str], ...]:
    count = math.floor(high / step + 1e-9)
    return tuple((index * step, f"{index * step / unit:,.6g}") for index in range(count + 1))
