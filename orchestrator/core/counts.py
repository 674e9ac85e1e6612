"""Counts of several counters added up: what control knows of a service although gateways come and go.

A gateway counts from its own boot and its counts vanish with it. So what is added up are differences
between two looks at the same counter; the sum never falls.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from operator import attrgetter
from typing import Any, NamedTuple

from orchestrator.core.observed import ServiceSample
from stages.types import Stage

GONE_S = 30.0
"""A counter not heard of for so long is gone; until then what it would have said is missing."""
YOUNG_S = 1.0
"""Reports are at most this late: a counter older than the last look by more was there at that look."""

TOTALS = (
    "requests",
    "text_tokens",
    "image_tokens",
    "image_hit_tokens",
    "prompt_tokens",
    "prompt_hit_tokens",
    "finished",
    "output_tokens",
    "judged",
    "attained",
)
STAGE_TOTALS = ("offered_units", "offered_jobs", "done_units", "waited_s", "started_jobs")

_read, _read_stage = attrgetter(*TOTALS), attrgetter(*STAGE_TOTALS)


class Totals(NamedTuple):
    """The fields `TOTALS` of a `ServiceSample` and `STAGE_TOTALS` of each of its stages, as plain numbers."""

    service: tuple[Any, ...]
    stages: Mapping[Stage, tuple[Any, ...]]

    @classmethod
    def of(cls, sample: ServiceSample) -> "Totals":
        """Return those of a sample."""
        return cls(_read(sample), {stage: _read_stage(sample.stages[stage]) for stage in Stage})


NOTHING = Totals((0,) * len(TOTALS), dict.fromkeys(Stage, (0,) * len(STAGE_TOTALS)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Work that arrived at one stage by windows of its `budget_s`; number n is [n, n + 1)·window_s.

    Attributes:
        window_s: Length of one; > 0.
        since: The first window of which all is known.
        closed: Windows below this number are over.
        units: (number, work) of those from `since` on that are over and in which work arrived, in order.
    """

    window_s: float
    since: int
    closed: int
    units: tuple[tuple[int, float], ...] = ()


class Backlog(NamedTuple):
    """What waits in one gateway for one stage."""

    units: float = 0.0
    jobs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """What one counter, such as a gateway, has counted of one service.

    Attributes:
        counter: New at every boot.
        age_s: Seconds since it began.
        totals: Since then. What a counter does not count in `StageSample` is 0.
        windows: By stage, on a clock that all counters of the service share.
        waiting: By stage.
    """

    counter: str
    age_s: float
    totals: ServiceSample
    windows: Mapping[Stage, Windows]
    waiting: Mapping[Stage, Backlog]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """Sums over all windows seen; see `StageSample`.

    Attributes:
        closed: Windows below this number are in the sums or were missed.
    """

    window_s: float = 0.0
    closed: int = 0
    bins: int = 0
    units: float = 0.0
    squares: float = 0.0


class Heard(NamedTuple):
    """The last that was heard of a counter."""

    totals: Totals
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What is remembered of a service's counters.

    Attributes:
        looked_s: When counts were last taken in; None before the first time.
        totals: Of all counters together, those that are gone included.
        heard: By counter.
        arrivals: By stage.
    """

    looked_s: float | None = None
    totals: Totals = NOTHING
    heard: Mapping[str, Heard] = field(default_factory=dict)
    arrivals: Mapping[Stage, Arrivals] = field(default_factory=lambda: dict.fromkeys(Stage, Arrivals()))

    def missing(self, now_s: float) -> bool:
        """Return whether a counter has fallen silent lately: part of the load may not be in the totals."""
        return any(heard.at_s < now_s for heard in self.heard.values())


def take_in(counts: Sequence[Count], tally: Tally, now_s: float) -> Tally:
    """Return the tally with the counts of one look.

    Args:
        counts: One for each counter that was heard, at least one.
        tally: What the last call returned; `Tally()` at first.
        now_s: When they were read.
    """
    now = [Totals.of(count.totals) for count in counts]
    before = [_before(count, totals, tally, now_s) for count, totals in zip(counts, now, strict=True)]
    kept = {name: heard for name, heard in tally.heard.items() if now_s - heard.at_s < GONE_S}
    for count, totals in zip(counts, now, strict=True):
        kept[count.counter] = Heard(totals, now_s)
    return Tally(
        looked_s=now_s,
        totals=_grown(tally.totals, list(zip(now, before, strict=True))),
        heard=kept,
        arrivals={
            stage: _arrivals([count.windows[stage] for count in counts], tally.arrivals[stage])
            for stage in Stage
        },
    )


def highest(values: Iterable[float | None]) -> float | None:
    """Return the highest of the percentiles that counters report, None if there is none.

    Percentiles do not add up. The highest is a bound: where no counter has more than 1 % above it, all
    together have no more than 1 % above it. So a breach is never overlooked, and may be overstated.
    """
    return max((value for value in values if value is not None), default=None)


def _before(count: Count, totals: Totals, tally: Tally, now_s: float) -> Totals:
    """Return what of a counter's totals is known already.

    One that was there at an earlier look but is new to us is counted from now on: its whole past in
    one step would look like a burst.
    """
    heard = tally.heard.get(count.counter)
    if heard is not None:
        return heard.totals
    young = tally.looked_s is None or count.age_s <= now_s - tally.looked_s + YOUNG_S
    return NOTHING if young else totals


def _grown(totals: Totals, pairs: Sequence[tuple[Totals, Totals]]) -> Totals:
    service, stages = totals.service, dict(totals.stages)
    for now, before in pairs:
        service = _plus(service, now.service, before.service)
        for stage in Stage:
            stages[stage] = _plus(stages[stage], now.stages[stage], before.stages[stage])
    return Totals(service, stages)


def _plus(totals: tuple[Any, ...], now: tuple[Any, ...], before: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple([t + (a - b) for t, a, b in zip(totals, now, before, strict=True)])


def _arrivals(counted: Sequence[Windows], known: Arrivals) -> Arrivals:
    """Add windows up over all counters, since a burst comes to all of them in the same window.

    From variances of single counters, that of the sum could only be had as if they were independent.
    Windows that some counter no longer has, or not yet, are left out, and so are all while an edit of
    `budget_s` spreads and lengths differ: means over windows lose nothing by that but resolution.
    """
    lengths = {windows.window_s for windows in counted}
    if len(lengths) > 1:
        return known
    (window_s,) = lengths
    first = max([windows.since for windows in counted])
    if window_s == known.window_s:
        first = max(first, known.closed)
    end = max(first, min([windows.closed for windows in counted]))
    sums: dict[int, float] = {}
    for windows in counted:
        for number, units in takewhile(lambda window: window[0] >= first, reversed(windows.units)):
            if number < end:
                sums[number] = sums.get(number, 0.0) + units
    return Arrivals(
        window_s=window_s,
        closed=end,
        bins=known.bins + end - first,
        units=known.units + sum(sums.values()),
        squares=known.squares + sum([units * units for units in sums.values()]),
    )
