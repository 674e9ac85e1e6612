"""What a search may vary of each scaling policy: up to four numbers, each between cheap and safe."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.core.scaling import SCALERS
from orchestrator.core.scaling.params import Params
from orchestrator.simulator.foresight import foreseen, timetable
from orchestrator.simulator.scenario import Subject

Point = Mapping[str, float]
"""Values by the names of the knobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """One number to search for.

    Attributes:
        cheap: The end that costs least, as far as can be said.
        safe: The end that attains most; below or above `cheap`.
        start: Where a search begins: the policy's default.
        log: Whether ratios count and not differences; both ends are above 0 then.
    """

    cheap: float
    safe: float
    start: float
    log: bool = False

    def at(self, share: float) -> float:
        """Return the value so far, 0 to 1, on the way from cheap to safe."""
        if self.log:
            return float(self.cheap * (self.safe / self.cheap) ** share)
        return self.cheap + (self.safe - self.cheap) * share

    def share(self, value: float) -> float:
        """Return how far a value is on the way, within 0 and 1."""
        if self.log:
            way = math.log(value / self.cheap) / math.log(self.safe / self.cheap)
        else:
            way = (value - self.cheap) / (self.safe - self.cheap)
        return min(1.0, max(0.0, way))


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What a search may vary of one policy.

    Attributes:
        knobs: By name; in this order they are turned.
        params: Makes parameters of values; a subject, for those that are told its future.
    """

    knobs: Mapping[str, Knob]
    params: Callable[[Subject, Point], Params]


def _named(name: str) -> Callable[[Subject, Point], Params]:
    """Return what sets fields of the policy's parameters, the others being the file's or the defaults."""

    def params(subject: Subject, point: Point) -> Params:
        own = subject.control.params
        kind = SCALERS[name].params
        base = own if subject.control.scaling == name and isinstance(own, kind) else kind()
        changed: dict[str, Any] = dict(point)
        return replace(base, **changed)

    return params


def _latency(subject: Subject, point: Point) -> Params:
    """`low` is a fraction of `high`, so that it stays below."""
    return _named("latency-only")(subject, {**point, "low": point["low"] * point["high"]})


def _threshold(subject: Subject, point: Point) -> Params:
    """`queue_spare` and `kv_spare` are fractions of their thresholds, so that they stay below."""
    spares = {"queue_spare": point["spare"] * point["queue"], "kv_spare": 0.9 * point["spare"] * point["kv"]}
    return _named("threshold-or")(subject, {"queue": point["queue"], "kv": point["kv"], **spares})


def _oracle(subject: Subject, point: Point) -> Params:
    return foreseen(subject, **point)


def _periodic(subject: Subject, point: Point) -> Params:
    return timetable(subject, **point)


_COOLDOWN_IN = Knob(cheap=60.0, safe=1_800.0, start=300.0, log=True)
_FACTOR = Knob(cheap=0.2, safe=2.0, start=1.0, log=True)
_FORESEEN = Space(
    knobs={"encode": _FACTOR, "language": _FACTOR, "ahead_s": Knob(cheap=0.0, safe=900.0, start=0.0)},
    params=_oracle,
)


def _utilisation(start: float, cheap: float = 0.95) -> Knob:
    """Return a knob of a utilisation to plan with; bursty work asks for very low ones."""
    return Knob(cheap=cheap, safe=0.05, start=start, log=True)


SPACES: Mapping[str, Space] = {
    "static": Space(knobs={}, params=_named("static")),
    "oracle": _FORESEEN,
    "oracle-zero-lag": _FORESEEN,
    "hpa": Space(
        knobs={
            "encode_target": _utilisation(0.7),
            "target": _utilisation(0.7),
            "decode_target": Knob(cheap=1.0, safe=0.5, start=0.7),
            "stabilise_s": _COOLDOWN_IN,
        },
        params=_named("hpa"),
    ),
    "independent-tps": Space(
        knobs={
            "encode_target": _utilisation(0.7),
            "target": _utilisation(0.7),
            "decode_target": _utilisation(0.7),
            "cooldown_in_s": _COOLDOWN_IN,
        },
        params=_named("independent-tps"),
    ),
    "latency-only": Space(
        knobs={
            "high": Knob(cheap=1.5, safe=0.2, start=1.0, log=True),
            "low": Knob(cheap=0.9, safe=0.1, start=0.5),
            "up": Knob(cheap=0.1, safe=2.0, start=0.5, log=True),
            "cooldown_in_s": _COOLDOWN_IN,
        },
        params=_latency,
    ),
    "periodic": Space(
        knobs={
            "encode": _FACTOR,
            "language": _FACTOR,
            "quantile": Knob(cheap=0.5, safe=1.0, start=1.0),
        },
        params=_periodic,
    ),
    "heteroscale": Space(
        knobs={
            "encode_target": _utilisation(0.7),
            "target": _utilisation(0.7),
            "ratio": Knob(cheap=0.2, safe=5.0, start=1.0, log=True),
            "cooldown_in_s": replace(_COOLDOWN_IN, start=600.0),
        },
        params=_named("heteroscale"),
    ),
    "modserve": Space(
        knobs={
            "encode_headroom": _utilisation(0.8),
            "headroom": _utilisation(0.8),
            "decode_headroom": _utilisation(0.8),
            "period_s": Knob(cheap=600.0, safe=15.0, start=300.0, log=True),
        },
        params=_named("modserve"),
    ),
    "dynamo-like": Space(
        knobs={
            "encode_headroom": _utilisation(0.8),
            "headroom": _utilisation(0.8),
            "sensitivity": Knob(cheap=0.9, safe=0.1, start=0.5),
            "period_s": Knob(cheap=600.0, safe=30.0, start=180.0, log=True),
        },
        params=_named("dynamo-like"),
    ),
    "threshold-or": Space(
        knobs={
            "queue": Knob(cheap=10.0, safe=0.05, start=5.0, log=True),
            "kv": Knob(cheap=0.95, safe=0.3, start=0.8),
            "spare": Knob(cheap=0.1, safe=0.95, start=0.6),
        },
        params=_threshold,
    ),
    "coupled": Space(
        knobs={
            "wait_share": Knob(cheap=6.0, safe=0.5, start=1.5, log=True),
            "headroom": Knob(cheap=1.0, safe=0.5, start=0.85),
            "settle_s": Knob(cheap=300.0, safe=3_600.0, start=600.0, log=True),
            "hysteresis_out": Knob(cheap=0.4, safe=0.05, start=0.2, log=True),
        },
        params=_named("coupled"),
    ),
}
"""By policy; static-best has a search of its own, `tune`, of the same budget."""
