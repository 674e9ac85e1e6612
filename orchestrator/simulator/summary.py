"""What a run comes to: the figures that people compare."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.simulator.outcomes import Ending
from orchestrator.simulator.run import Run

HOUR_S = 3600.0
QUANTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Requests of one modality, or all.

    Attributes:
        attainment: Fraction of the offered requests that met their targets; None without any.
        ttft_s: Percentiles of those that were answered, by percent; likewise `tpot_s`.
    """

    requests: int
    answered: int
    attainment: float | None
    ttft_s: Mapping[int, float | None]
    tpot_s: Mapping[int, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One run's figures.

    Attributes:
        gpu_hours: Accelerator-hours provisioned, from a replica's creation to its end.
        gpu_hours_by_stage: Likewise; for a pool of several stages under the first.
        cost_usd: At the prices of data/accelerators.yaml.
        groups: `all`, `text` and `image`.
        endings: Requests by how they ended.
        utilisation: Fraction of provisioned replica-seconds with work, by stage.
        scale_events: Decisions that changed a count, by stage.
        embedding_hits: Fraction of image tokens that embedding caches supplied; 0.0 if no image repeats.
        prefix_hits: Likewise of prompt tokens and prefix caches.
        span_s: First arrival to last end.
        wall_s: Seconds that the simulation took.
    """

    system: str
    scaling: str
    seed: int
    gpu_hours: float
    gpu_hours_by_stage: Mapping[str, float]
    cost_usd: float
    groups: Mapping[str, Group]
    endings: Mapping[str, int]
    utilisation: Mapping[str, float]
    scale_events: Mapping[str, int]
    embedding_hits: float
    prefix_hits: float
    span_s: float
    events: int
    wall_s: float

    @property
    def attainment(self) -> float:
        """Fraction of all offered requests that met their targets; 1.0 without any."""
        attained = self.groups["all"].attainment
        return 1.0 if attained is None else attained


def summarise(run: Run) -> Summary:
    """Return the figures of a run."""
    scenario, outcomes = run.scenario, run.outcomes
    images = scenario.workload.images > 0
    by_stage: dict[str, float] = {}
    cost_usd = 0.0
    for (_, stage, hardware), seconds in run.accelerator_s.items():
        by_stage[stage] = by_stage.get(stage, 0.0) + seconds / HOUR_S
        cost_usd += seconds / HOUR_S * scenario.control.accelerators[hardware].cost_per_h
    everyone = np.ones_like(images)
    return Summary(
        system=scenario.system,
        scaling=scenario.control.scaling if scenario.scaled else "fixed",
        seed=scenario.seed,
        gpu_hours=sum(by_stage.values()),
        gpu_hours_by_stage=by_stage,
        cost_usd=cost_usd,
        groups={
            "all": _group(run, everyone),
            "text": _group(run, ~images),
            "image": _group(run, images),
        },
        endings={
            ending.name.lower(): int(np.count_nonzero(outcomes.ending == ending))
            for ending in Ending
            if ending is not Ending.OPEN
        },
        utilisation={
            stage: run.busy_s[stage] / seconds for stage, seconds in run.replica_s.items() if seconds > 0.0
        },
        scale_events={str(stage): count for stage, count in run.scale_events.items()},
        embedding_hits=run.embedding_hits,
        prefix_hits=run.prefix_hits,
        span_s=run.span_s,
        events=run.events,
        wall_s=run.wall_s,
    )


def _group(run: Run, rows: NDArray[np.bool_]) -> Group:
    outcomes = run.outcomes
    requests = int(np.count_nonzero(rows))
    return Group(
        requests=requests,
        answered=int(np.count_nonzero(outcomes.ending[rows] == Ending.ANSWERED)),
        attainment=float(np.mean(outcomes.attained[rows])) if requests else None,
        ttft_s=_percentiles(outcomes.ttft_s[rows]),
        tpot_s=_percentiles(outcomes.tpot_s[rows]),
    )


def _percentiles(column: NDArray[np.float32]) -> dict[int, float | None]:
    known = column[~np.isnan(column)]
    if not len(known):
        return dict.fromkeys(QUANTILES)
    return dict(zip(QUANTILES, np.percentile(known, QUANTILES).tolist(), strict=True))
