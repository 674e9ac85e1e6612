"""What a run comes to: the figures that people compare."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.types import Reason
from orchestrator.simulator.outcomes import Ending
from orchestrator.simulator.run import Run, ServiceRun
from stages.types import Stage

HOUR_S = 3600.0
QUANTILES = (50, 90, 99)
LET_IN = frozenset({Reason.ADMITTED, Reason.PREFILL_BACKPRESSURE})
"""What admission says of a request that it lets in, if later."""


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
    """One run's figures, of all its services together.

    Attributes:
        system: Systems of the services, with commas if they differ; likewise `scaling`.
        gpu_hours: Accelerator-hours provisioned, from a replica's creation to its end.
        gpu_hours_by_stage: Likewise; for a pool of several stages under the first.
        cost_usd: At the prices of data/accelerators.yaml.
        groups: `all`, `text` and `image`.
        endings: Requests by how they ended.
        refusals: Those that were refused, by why.
        utilisation: Fraction of provisioned replica-seconds with work, by stage.
        fleet_provisioned: Fraction of the fleet's accelerator-seconds that replicas were provisioned for.
        fleet_busy: Fraction of them in which replicas had work.
        scale_events: Decisions that changed a count, by stage.
        unplaced_hours: Replica-hours that were planned and had no place, by stage and why.
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
    refusals: Mapping[str, int]
    utilisation: Mapping[str, float]
    fleet_provisioned: float
    fleet_busy: float
    scale_events: Mapping[str, int]
    unplaced_hours: Mapping[str, Mapping[str, float]]
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
    """Return the figures of a run, of all its services together; `run.of(name)` is the run of one."""
    services, columns = run.services, _Columns(run.services)
    tenants = [service.tenant for service in services]
    by_stage = _gpu_hours(services)
    gpu_hours = sum(by_stage.values())
    fleet_s = run.span_s * sum(node.accelerators for node in run.scenario.nodes)
    return Summary(
        system=_named(tenant.system for tenant in tenants),
        scaling=_named(tenant.control.scaling for tenant in tenants) if run.scenario.scaled else "fixed",
        seed=run.scenario.seed,
        gpu_hours=gpu_hours,
        gpu_hours_by_stage=by_stage,
        cost_usd=sum(_cost_usd(service) for service in services),
        groups={
            "all": columns.group(np.ones_like(columns.with_images)),
            "text": columns.group(~columns.with_images),
            "image": columns.group(columns.with_images),
        },
        endings=columns.endings(),
        refusals=_refusals(services),
        utilisation=_utilisation(services),
        fleet_provisioned=HOUR_S * gpu_hours / fleet_s if fleet_s else 0.0,
        fleet_busy=sum(_busy_accelerator_s(service) for service in services) / fleet_s if fleet_s else 0.0,
        scale_events={str(stage): sum(s.scale_events[stage] for s in services) for stage in Stage},
        unplaced_hours=_unplaced_hours(services),
        embedding_hits=_share([(s.hits.cached_image_tokens, s.hits.image_tokens) for s in services]),
        prefix_hits=_share([(s.hits.cached_prompt_tokens, s.hits.prompt_tokens) for s in services]),
        span_s=run.span_s,
        events=run.events,
        wall_s=run.wall_s,
    )


def _refusals(services: Sequence[ServiceRun]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for service in services:
        for (stage, reason), count in service.reasons.items():
            if stage is None and reason not in LET_IN:
                counts[reason] += count
    return dict(sorted(counts.items()))


def _unplaced_hours(services: Sequence[ServiceRun]) -> dict[str, dict[str, float]]:
    hours: dict[str, dict[str, float]] = {}
    for service in services:
        for (stage, reason), seconds in sorted(service.unplaced_s.items()):
            of_stage = hours.setdefault(stage, {})
            of_stage[reason] = of_stage.get(reason, 0.0) + seconds / HOUR_S
    return hours


def _share(parts: Sequence[tuple[float, float]]) -> float:
    whole = sum(whole for _, whole in parts)
    return sum(part for part, _ in parts) / whole if whole else 0.0


def _named(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _gpu_hours(services: Sequence[ServiceRun]) -> dict[str, float]:
    hours: dict[str, float] = {}
    for service in services:
        for (stage, _), seconds in service.accelerator_s.items():
            hours[stage] = hours.get(stage, 0.0) + seconds / HOUR_S
    return hours


def _cost_usd(service: ServiceRun) -> float:
    facts = service.tenant.control.accelerators
    return sum(
        seconds / HOUR_S * facts[hardware].cost_per_h
        for (_, hardware), seconds in service.accelerator_s.items()
    )


def _busy_accelerator_s(service: ServiceRun) -> float:
    stages = service.tenant.control.stages
    return sum(seconds * stages[stage].tp for stage, seconds in service.busy_s.items())


def _utilisation(services: Sequence[ServiceRun]) -> dict[str, float]:
    there_s: dict[str, float] = {}
    busy_s: dict[str, float] = {}
    for service in services:
        for stage, seconds in service.replica_s.items():
            there_s[stage] = there_s.get(stage, 0.0) + seconds
            busy_s[stage] = busy_s.get(stage, 0.0) + service.busy_s[stage]
    return {stage: busy_s[stage] / seconds for stage, seconds in there_s.items() if seconds > 0.0}


class _Columns:
    """Outcomes of several services as one table."""

    def __init__(self, services: Sequence[ServiceRun]) -> None:
        outcomes = [service.outcomes for service in services]
        self.with_images = np.concatenate([service.tenant.workload.images > 0 for service in services])
        self._ending = np.concatenate([each.ending for each in outcomes])
        self._attained = np.concatenate([each.attained for each in outcomes])
        self._ttft_s = np.concatenate([each.ttft_s for each in outcomes])
        self._tpot_s = np.concatenate([each.tpot_s for each in outcomes])

    def endings(self) -> dict[str, int]:
        return {
            ending.name.lower(): int(np.count_nonzero(self._ending == ending))
            for ending in Ending
            if ending is not Ending.OPEN
        }

    def group(self, rows: NDArray[np.bool_]) -> Group:
        requests = int(np.count_nonzero(rows))
        return Group(
            requests=requests,
            answered=int(np.count_nonzero(self._ending[rows] == Ending.ANSWERED)),
            attainment=float(np.mean(self._attained[rows])) if requests else None,
            ttft_s=_percentiles(self._ttft_s[rows]),
            tpot_s=_percentiles(self._tpot_s[rows]),
        )


def _percentiles(column: NDArray[np.float32]) -> dict[int, float | None]:
    known = column[~np.isnan(column)]
    if not len(known):
        return dict.fromkeys(QUANTILES)
    return dict(zip(QUANTILES, np.percentile(known, QUANTILES).tolist(), strict=True))
