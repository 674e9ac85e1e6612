"""What gateways publish for control with their leases, and the view of a service that is made of it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from orchestrator.core.counts import Backlog, Count
from orchestrator.core.observe import Reading, ServiceView
from orchestrator.ports import Snapshot
from stages.types import Stage


def published(model: str, count: Count) -> Mapping[str, Any]:
    """Return a gateway's count as part of its report; what waits is in the report already."""
    return {"model": model, "count": msgspec.to_builtins(count)}


def of_model(registry: Snapshot, model: str) -> Snapshot:
    """Return the registry without replicas and gateways of other models: services may share a Redis."""
    reports = registry.gateways.items()
    return replace(
        registry,
        replicas=tuple(entry for entry in registry.replicas if entry.replica.model == model),
        gateways={id_: report for id_, report in reports if report.get("model", model) == model},
    )


def service_view(registry: Snapshot, model: str) -> ServiceView:
    """Return what gateways and replicas that serve a model say of themselves.

    Args:
        registry: As the ledger has it; who died is in it until the lease lapses.
        model: The service's.
    """
    mine = of_model(registry, model)
    counts, entries = tuple(_counts(mine.gateways.values())), mine.replicas
    return ServiceView(
        counts=counts,
        readings={
            stage: [Reading(e.replica, e.load.get("busy_s")) for e in entries if e.replica.stage is stage]
            for stage in Stage
        },
        complete=len(counts) == len(mine.gateways),
    )


def _counts(reports: Iterable[Mapping[str, Any]]) -> Iterator[Count]:
    """Yield the counts that can be read; a gateway of another version may have none."""
    for report in reports:
        waiting = {
            stage: Backlog(
                float(report.get("waiting_tokens", {}).get(stage, 0)), report.get("waiting", {}).get(stage, 0)
            )
            for stage in Stage
        }
        try:
            yield msgspec.convert({**report["count"], "waiting": waiting}, Count)
        except (KeyError, TypeError, msgspec.ValidationError):
            continue
