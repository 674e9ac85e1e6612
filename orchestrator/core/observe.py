"""observe(): counts of gateways, readings of replicas, what the cluster has → what control decides on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from orchestrator.core.counts import STAGE_TOTALS, TOTALS, Arrivals, Count, Tally, highest, take_in
from orchestrator.core.observed import Node, PlacedReplica, ReplicaState, ServiceSample, Snapshot, StageSample
from orchestrator.core.types import ReplicaView
from stages.types import Stage


class Reading(NamedTuple):
    """What is known of a replica's work.

    Attributes:
        busy_s: Seconds in which it has had work since its start; None if it does not say.
    """

    replica: ReplicaView
    busy_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceView:
    """One service at one look.

    Attributes:
        counts: Of every gateway that was heard; none if the ledger could not be read.
        readings: Of every replica that was heard, by stage; one that does several is in each.
        complete: Whether every gateway said what it counted.
    """

    counts: Sequence[Count]
    readings: Mapping[Stage, Sequence[Reading]]
    complete: bool = True


class _Busy(NamedTuple):
    """What replicas of a stage have been busy in all, and each of late."""

    total_s: float = 0.0
    of_replica: Mapping[str, float] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What `observe` remembers of a service."""

    tally: Tally = field(default_factory=Tally)
    busy: Mapping[Stage, _Busy] = field(default_factory=lambda: dict.fromkeys(Stage, _Busy()))


def observe(
    services: Mapping[str, ServiceView],
    replicas: Iterable[PlacedReplica],
    nodes: Iterable[Node],
    state: Mapping[str, Observed],
    now_s: float,
    orders: Mapping[str, int] | None = None,
) -> tuple[Snapshot, Mapping[str, Observed]]:
    """Return the snapshot, and what to remember for the next one.

    The live side calls it with what the ledger and the cluster say, the simulator with what it models.

    Args:
        services: By name.
        replicas: As the cluster has them.
        nodes: Likewise.
        state: What the last call returned; empty at first.
        now_s: On the clock of all earlier calls.
        orders: See `Snapshot`; none without.
    """
    placed = tuple(replicas)
    samples: dict[str, ServiceSample | None] = {}
    after: dict[str, Observed] = dict(state)
    for name, view in services.items():
        before = state.get(name, Observed())
        if not view.counts:
            samples[name] = None
            continue
        ready = [r for r in placed if r.service == name and r.state is ReplicaState.READY]
        samples[name], after[name] = _service(view, ready, before, now_s)
    snapshot = Snapshot(services=samples, replicas=placed, nodes=tuple(nodes), orders=orders or {})
    return snapshot, after


def _service(
    view: ServiceView, ready: Sequence[PlacedReplica], before: Observed, now_s: float
) -> tuple[ServiceSample, Observed]:
    passed_s = 0.0 if before.tally.looked_s is None else now_s - before.tally.looked_s
    tally = take_in(view.counts, before.tally, now_s)
    busy = {stage: _busy(view.readings[stage], before.busy[stage], passed_s) for stage in Stage}
    counted = view.complete and not tally.missing(now_s)
    stages = {
        stage: _stage(
            stage,
            view,
            tally.totals.stages[stage],
            tally.arrivals[stage],
            busy[stage].total_s,
            counted and _all_read(view.readings[stage], [r for r in ready if r.stage is stage]),
        )
        for stage in Stage
    }
    sample = ServiceSample(
        **dict(zip(TOTALS, tally.totals.service, strict=True)),
        at_s=now_s,
        ttft_ratio=highest(count.totals.ttft_ratio for count in view.counts),
        tpot_ratio=highest(count.totals.tpot_ratio for count in view.counts),
        stages=stages,
    )
    return sample, Observed(tally=tally, busy=busy)


def _stage(
    stage: Stage,
    view: ServiceView,
    totals: tuple[Any, ...],
    arrivals: Arrivals,
    busy_s: float,
    complete: bool,
) -> StageSample:
    replicas = [reading.replica for reading in view.readings[stage]]
    live = [replica for replica in replicas if not replica.draining]
    kv_bytes = sum([r.total_kv_bytes for r in live])
    held_bytes = kv_bytes - sum([r.free_kv_bytes for r in live])
    # Decodes that run are not ahead of one that waits.
    pending = 0 if stage is Stage.DECODE else sum([r.pending_tokens for r in replicas])
    return StageSample(
        **dict(zip(STAGE_TOTALS, totals, strict=True)),
        busy_s=busy_s,
        bins=arrivals.bins,
        bin_units=arrivals.units,
        bin_units_squared=arrivals.squares,
        waiting_units=float(pending + sum([count.waiting[stage].units for count in view.counts])),
        waiting_jobs=sum([count.waiting[stage].jobs for count in view.counts]),
        running_jobs=sum([r.in_flight for r in replicas]),
        kv_usage=held_bytes / kv_bytes if kv_bytes else 0.0,
        complete=complete,
    )


def _busy(readings: Sequence[Reading], before: _Busy, passed_s: float) -> _Busy:
    """Add up differences, since a replica's total is gone with it.

    None can have been busy for longer than has passed, so one that is new to us cannot bring its past.
    """
    said = {r.replica.replica_id: r.busy_s for r in readings if r.busy_s is not None}
    known = before.of_replica
    gained = [min(passed_s, max(0.0, now_s - known.get(id_, 0.0))) for id_, now_s in said.items()]
    return _Busy(before.total_s + sum(gained), said)


def _all_read(readings: Sequence[Reading], ready: Sequence[PlacedReplica]) -> bool:
    said = {r.replica.replica_id for r in readings if r.busy_s is not None}
    return all(replica.replica_id in said for replica in ready)
