"""A load as it was served and as it was simulated, figure by figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

GOALS = {"p50": 0.10, "p90": 0.15, "p99": 0.25, "throughput": 0.05, "share": 0.05}
"""How far a prediction may be off: as a ratio, shares as a difference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One run of one load, live or simulated.

    Attributes:
        figures: Seconds or tokens per second by name, such as `ttft_p50`.
        shares: Of its stage's hops, by stage, of each replica in the order of their names.
    """

    figures: Mapping[str, float]
    shares: Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One figure of one load, over its repeats.

    Attributes:
        live: Median over the repeats; likewise `simulated`.
        ratio: Median of simulated over live; of the difference for shares.
        spread: Lowest and highest of it.
        noise: Largest live repeat over smallest, less 1; the difference for shares.
        goal: How far `ratio` may be from 1; from 0 for shares.
    """

    load: float
    figure: str
    live: float
    simulated: float
    ratio: float
    spread: tuple[float, float]
    noise: float
    goal: float
    met: bool

    @property
    def is_share(self) -> bool:
        """Whether it is a share of hops."""
        return self.figure.startswith("share")


Pairs = Sequence[tuple[Seen, Seen]]
"""Live runs with the simulated runs of the same requests."""


def compare(load: float, pairs: Pairs) -> list[Compared]:
    """Return each figure of a load, and the shares of all stages that have several replicas."""
    first, _ = pairs[0]
    rows = [_ratio(load, name, pairs) for name in first.figures]
    return rows + [_share(load, stage, pairs) for stage, shares in first.shares.items() if len(shares) > 1]


def _ratio(load: float, name: str, pairs: Pairs) -> Compared:
    live = [seen.figures[name] for seen, _ in pairs]
    simulated = [seen.figures[name] for _, seen in pairs]
    ratios = [s / v for s, v in zip(simulated, live, strict=True)]
    goal = GOALS[name.rpartition("_")[2]]
    return Compared(
        load=load,
        figure=name,
        live=median(live),
        simulated=median(simulated),
        ratio=median(ratios),
        spread=(min(ratios), max(ratios)),
        noise=max(live) / min(live) - 1.0,
        goal=goal,
        met=abs(median(ratios) - 1.0) <= goal,
    )


def _share(load: float, stage: str, pairs: Pairs) -> Compared:
    """Compare the first replica's share; of two, the other has the rest."""
    live = [seen.shares[stage][0] for seen, _ in pairs]
    simulated = [seen.shares[stage][0] for _, seen in pairs]
    apart = [s - v for s, v in zip(simulated, live, strict=True)]
    return Compared(
        load=load,
        figure=f"share of {stage}-0",
        live=median(live),
        simulated=median(simulated),
        ratio=median(apart),
        spread=(min(apart), max(apart)),
        noise=max(live) - min(live),
        goal=GOALS["share"],
        met=abs(median(apart)) <= GOALS["share"],
    )
