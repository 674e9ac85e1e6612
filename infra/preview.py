"""What a stack would take and attain, simulated before anything is created."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from infra.config import ConfigError
from infra.fleet import fleet_of
from infra.objects.nodes import NodePoolArgs
from infra.objects.service import ModelServiceArgs
from infra.preview_config import PreviewConfig
from infra.stack import StackArgs
from orchestrator.control_policy import Hardware, policy_profile
from orchestrator.core.scaling.static import StaticParams
from orchestrator.policy import SplitPolicy
from orchestrator.profiles import NoProfileError
from orchestrator.simulator.fleet_spec import FleetError
from orchestrator.simulator.load import SHIPPED_WINDOW
from orchestrator.simulator.run import Run, simulate
from orchestrator.simulator.scenario import Subject, load_subjects, scenario_of
from orchestrator.simulator.summary import HOUR_S, summarise
from orchestrator.simulator.tenant import Tenant
from orchestrator.simulator.trace_file import TraceError
from orchestrator.simulator.workload import Workload
from stages.types import Stage

DAY_S = 24 * HOUR_S
DAYS_PER_MONTH = 730 / 24

Figures = dict[str, Any]
"""JSON; figures are rounded, so that equal stacks have equal ones."""


def predict(stack: StackArgs, preview: PreviewConfig, root: Path, hardware: Hardware) -> Figures:
    """Return simulated figures of the services and of all of them, on the nodes that the stack declares.

    Without node pools there is room for every stage's `max`. A service without an autoscaler keeps its
    least replicas. `not_simulated` says what is left out and why.

    Args:
        stack: What would be created; it is feasible.
        preview: What requests to simulate.
        root: Folder that the trace's path starts from.
        hardware: Facts, with prices.

    Raises:
        ConfigError: A trace cannot be used.
    """
    reasons = [_left_out(service, stack.node_pools, hardware) for service in stack.services]
    left_out = [reason for reason in reasons if reason]
    known = [service for service, why in zip(stack.services, reasons, strict=True) if not why]
    figures: Figures = {
        "kind": "profile-driven simulation; a day is taken to be the trace over and over",
        "seed": preview.seed,
        "rate_scale": preview.rate_scale,
        "pools": _pools(stack.node_pools),
    }
    try:
        figures |= _simulated(known, stack.node_pools, preview, root) if known else {}
    except FleetError as error:
        left_out.append(str(error))
    except (TraceError, OSError) as error:
        raise ConfigError(f"`tercet:preview`: {error}; or say `simulate: false`") from error
    return {**figures, "not_simulated": left_out}


def below_target(figures: Figures) -> list[str]:
    """Return a text for each service that attains less than its policy's SLO."""
    return [
        f"{name}: simulated attainment {each['attainment']['all']:.1%} is below slo.attainment "
        f"{each['slo_attainment']:.1%}"
        for name, each in figures.get("services", {}).items()
        if each["attainment"]["all"] is not None and each["attainment"]["all"] < each["slo_attainment"]
    ]


def _left_out(service: ModelServiceArgs, pools: Sequence[NodePoolArgs], hardware: Hardware) -> str:
    """Return why a service cannot be simulated; nothing if it can."""
    name, there = service.policy.service, {pool.config.hardware for pool in pools}
    try:
        policy_profile(service.policy, service.file, hardware.accelerators)
    except NoProfileError:
        return f"{name}: its model has no profile"
    if service.policy.split != SplitPolicy():
        return f"{name}: requests that are not split by stage are not simulated yet"
    housed = all(there.intersection(service.policy.stages[stage].hardware) for stage in Stage)
    return "" if housed or not pools else f"{name}: it runs on hardware of no declared pool"


def _simulated(
    services: Sequence[ModelServiceArgs], pools: Sequence[NodePoolArgs], preview: PreviewConfig, root: Path
) -> Figures:
    levels = next((s.policy.topology.levels for s in services if s.policy.topology.levels), ())
    subjects = load_subjects(
        [service.file for service in services],
        [_trace(service, preview, root) for service in services],
        fleet=fleet_of(pools, levels) or None,
        rate_scale=preview.rate_scale,
        seed=preview.seed,
    )
    subjects = _cut(subjects, preview.requests)
    if not any(len(subject.workload) for subject in subjects):
        raise ConfigError(
            "`tercet:preview`: no requests are left to simulate; raise `requests` or `rate_scale`"
        )
    tenants = [_tenant(*each) for each in zip(services, subjects, strict=True)]
    run = simulate(scenario_of(tenants, subjects[0].nodes, seed=preview.seed))
    each = {subject.control.service: _service(subject, run) for subject in subjects}
    return {"services": each, "total": _figures(run)}


def _cut(subjects: tuple[Subject, ...], most: int) -> tuple[Subject, ...]:
    """Return subjects whose requests are at most so many, from the same first seconds of each trace."""
    arrivals_s = np.sort(np.concatenate([subject.workload.arrival_s for subject in subjects]))
    if len(arrivals_s) <= most:
        return subjects
    end_s = float(arrivals_s[most])
    return tuple(replace(each, workload=_first(each.workload, end_s)) for each in subjects)


def _first(work: Workload, end_s: float) -> Workload:
    return work.slice(0.0, end_s) if end_s < work.span_s else work


def _trace(service: ModelServiceArgs, preview: PreviewConfig, root: Path) -> str | None:
    """Return the trace to simulate; None for the policy's own."""
    if preview.trace:
        return _rooted(preview.trace, root)
    return None if service.policy.demand.trace else str(SHIPPED_WINDOW)


def _rooted(spec: str, root: Path) -> str:
    """Return a specification for `load_workload` whose paths start from a folder."""
    kind, colon, paths = spec.rpartition(":")
    parts = paths.split("@") if kind == "splice" else [paths]
    return kind + colon + "@".join(str(root / path) if path else "" for path in parts)


def _tenant(service: ModelServiceArgs, subject: Subject) -> Tenant:
    """Return the service as the stack would scale it: HPA and KEDA about as the policy `hpa` does."""
    if service.config.autoscaler == "tercet":
        return subject.tenant()
    stages = subject.control.stages
    encode, prefill, decode = (stages[stage].min for stage in Stage)
    least = StaticParams(encode=encode, prefill=prefill, decode=decode)
    fixed = service.config.autoscaler == "none"
    tenant = subject.tenant(scaling="static", params=least) if fixed else subject.tenant(scaling="hpa")
    # All replicas are in the pool of the best class.
    best = {stage: replace(bounds, hardware=bounds.hardware[:1]) for stage, bounds in stages.items()}
    return replace(tenant, control=replace(tenant.control, stages=best))


def _service(subject: Subject, run: Run) -> Figures:
    work = subject.workload
    return {
        "requests": f"{len(work):,} of {work.name} ({work.label}) in {work.span_s:,.0f} s",
        "notes": list(subject.notes),
        "slo_attainment": subject.control.attainment,
        **_figures(run.of(subject.control.service)),
    }


def _figures(run: Run) -> Figures:
    summary = summarise(run)
    days = run.span_s / DAY_S
    return {
        "gpu_hours_per_day": round(summary.gpu_hours / days, 1),
        **_cost(summary.cost_usd / days),
        "attainment": {
            name: None if group.attainment is None else round(group.attainment, 4)
            for name, group in summary.groups.items()
        },
    }


def _pools(pools: Sequence[NodePoolArgs]) -> Figures:
    """Return the accelerators of all node pools, and what they cost if all of them are there."""
    counts: dict[str, int] = {}
    per_h_usd = 0.0
    for node, price in (
        (node, pool.accelerator.cost_per_h) for pool in pools for node in fleet_of([pool], ())
    ):
        counts[node.hardware] = counts.get(node.hardware, 0) + node.accelerators
        per_h_usd += price * node.accelerators
    return {"accelerators": counts, **_cost(24 * per_h_usd)}


def _cost(per_day_usd: float) -> Mapping[str, float]:
    return {
        "cost_per_day_usd": round(per_day_usd, 2),
        "cost_per_month_usd": round(per_day_usd * DAYS_PER_MONTH, 2),
    }
