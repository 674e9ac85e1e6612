"""What experiments have in common: services, their traffic, and the figures that are reported of a run."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.point import Row
from orchestrator.control_policy import Hardware, load_control_policy
from orchestrator.core.planned import ControlPolicy
from orchestrator.policy import Policy, load_policy
from orchestrator.simulator.fleet_spec import parse_fleet
from orchestrator.simulator.load import load_workload
from orchestrator.simulator.scenario import Subject
from orchestrator.simulator.summary import HOUR_S, Summary
from orchestrator.simulator.workload import Workload

POLICIES = Path(__file__).parent / "policies"
_MIDNIGHT_S = 12 * HOUR_S
"""The shipped days begin at noon."""


@cache
def base(model: str) -> tuple[Policy, ControlPolicy]:
    """Return a policy of `experiments/policies/`; nearly nothing is refused under it."""
    file = POLICIES / f"{model}-a100.yaml"
    return load_policy(file), load_control_policy(file)


@cache
def twin(seed: int) -> Workload:
    """Return the shipped days as the trace twin has them."""
    return load_workload("twin:", seed=seed)[0]


@cache
def hardware() -> Hardware:
    """Return the facts in `data/`."""
    return Hardware.load()


def subject(model: str, work: Workload, fleet: str) -> Subject:
    """Return a service of `experiments/policies/` under a load."""
    policy, control = base(model)
    return Subject(
        policy=policy,
        control=control,
        workload=work,
        nodes=parse_fleet(fleet, control.levels),
        hardware=hardware(),
    )


def day(seed: int, *, hours: float, rate: float, begin_h: float = 0.0) -> Workload:
    """Return some hours of a weekday of the twin, so many times as dense, images clipped to 16.

    Its requests are drawn anew from those of the same minute, since copies of one request next to each
    other would come in bursts of one size.
    """
    rng = np.random.default_rng((seed, 7))
    begin_s = _MIDNIGHT_S + begin_h * HOUR_S
    work = twin(seed).clipped(16).slice(begin_s, begin_s + hours * HOUR_S)
    return denser(work, rate, rng)


def denser(work: Workload, rate: float, rng: np.random.Generator) -> Workload:
    """Return a workload with so many times the requests, each of the size of one of the same minute."""
    dense = work.scaled(rate=rate, rng=rng)
    minute, known = _minutes(dense), _minutes(work)
    first = np.searchsorted(known, minute, "left")
    last = np.searchsorted(known, minute, "right")
    drawn = first + (rng.random(len(dense)) * np.maximum(1, last - first)).astype(np.int64)
    drawn = np.minimum(drawn, len(work) - 1)
    return replace(
        dense,
        images=work.images[drawn],
        context_tokens=work.context_tokens[drawn],
        output_tokens=work.output_tokens[drawn],
    )


def _minutes(work: Workload) -> NDArray[np.int64]:
    minutes: NDArray[np.int64] = (work.arrival_s // 60.0).astype(np.int64)
    return minutes


def with_burst(
    work: Workload, *, at_s: float, for_s: float, factor: float, rng: np.random.Generator
) -> Workload:
    """Return a workload in which `factor` times as many image requests come for a while."""
    inside = (work.arrival_s >= at_s) & (work.arrival_s < at_s + for_s) & (work.images > 0)
    found = np.flatnonzero(inside)
    more = rng.choice(found, round((factor - 1.0) * len(found)))
    arrival_s = np.concatenate([work.arrival_s, rng.uniform(at_s, at_s + for_s, len(more))])
    order = np.argsort(arrival_s, kind="stable")
    rows = np.concatenate([np.arange(len(work)), more])[order]
    return replace(
        work,
        label=f"{work.label}, image requests × {factor:g} from {at_s:g} s for {for_s:g} s",
        arrival_s=arrival_s[order],
        images=work.images[rows],
        context_tokens=work.context_tokens[rows],
        output_tokens=work.output_tokens[rows],
    )


def figures(summary: Summary) -> Row:
    """Return what experiments of control report of a run."""
    everyone, span_h = summary.groups["all"], summary.span_s / HOUR_S
    row: dict[str, float | str | None] = {
        "gpu_hours": summary.gpu_hours,
        "cost_usd": summary.cost_usd,
        "attainment": summary.attainment,
        "ttft_p50_s": everyone.ttft_s[50],
        "ttft_p99_s": everyone.ttft_s[99],
        "tpot_p99_s": everyone.tpot_s[99],
        "busy": summary.fleet_busy / summary.fleet_provisioned if summary.fleet_provisioned else None,
    }
    for stage, count in summary.scale_events.items():
        row[f"events_per_h_{stage}"] = count / span_h
    return row
