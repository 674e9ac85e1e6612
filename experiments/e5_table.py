"""The signals that E5 compares."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orchestrator.core.observed import Signals
from stages.types import Stage

E, P, D = Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One signal, and how a loop may go by it.

    Attributes:
        stage: Whose load it might tell.
        of: The signal; None while there is none.
        each: Whether it is of one replica, such as a utilisation, or of all, such as a rate.
        cheap: The target that costs least of those that a search tries; likewise `safe`, which is below it.
    """

    stage: Stage
    of: Callable[[Signals], float | None]
    each: bool
    cheap: float
    safe: float


def _rate(stage: Stage, of: Callable[[Signals], float | None], most: float) -> Signal:
    return Signal(stage=stage, of=of, each=False, cheap=most, safe=0.05 * most)


def _level(stage: Stage, of: Callable[[Signals], float | None], cheap: float, safe: float) -> Signal:
    return Signal(stage=stage, of=of, each=True, cheap=cheap, safe=safe)


def _backlog(stage: Stage, most: float) -> Signal:
    return Signal(
        stage=stage, of=lambda s: s.stages[stage].waiting_units, each=False, cheap=most, safe=0.002 * most
    )


SIGNALS: Mapping[str, Signal] = {
    "E offered tokens/s": _rate(E, lambda s: s.stages[E].offered, 4_000.0),
    "E done tokens/s": _rate(E, lambda s: s.stages[E].done, 4_000.0),
    "E utilisation": _level(E, lambda s: s.stages[E].utilisation, 0.95, 0.05),
    "E backlog": _backlog(E, 50_000.0),
    "E wait": _level(E, lambda s: s.stages[E].wait_s, 5.0, 0.01),
    "P offered tokens/s": _rate(P, lambda s: s.stages[P].offered, 6_000.0),
    "P cache-missed tokens/s": _rate(P, lambda s: s.stages[P].done, 6_000.0),
    "P utilisation": _level(P, lambda s: s.stages[P].utilisation, 0.95, 0.05),
    "P backlog": _backlog(P, 100_000.0),
    "P wait": _level(P, lambda s: s.stages[P].wait_s, 5.0, 0.01),
    "TTFT p99": _level(P, lambda s: s.ttft_ratio, 1.0, 0.02),
    "D tokens/s": _rate(D, lambda s: s.stages[D].done, 600.0),
    "D utilisation": _level(D, lambda s: s.stages[D].utilisation, 0.95, 0.05),
    "D KV usage": _level(D, lambda s: s.stages[D].kv_usage, 0.9, 0.02),
    "TPOT p99": _level(D, lambda s: s.tpot_ratio, 1.0, 0.02),
}
"""Rates per replica end where it is saturated: about 3,800 image, 5,400 prompt and 600 output tokens/s."""
