"""The controller: observe → decide → apply, every tick. It acts on what is, never on what it did last."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.control_metrics import ControlMetrics
from orchestrator.control_policy import Hardware, load_control_policy
from orchestrator.core.decide import Decision, ServiceState, decide
from orchestrator.core.federation import across_clusters, shares
from orchestrator.core.observe import Observed, ServiceView, observe
from orchestrator.core.observed import PlacedReplica
from orchestrator.core.planned import ControlPolicy
from orchestrator.core.pools import Inform, Pod, Pool, Steps, as_replica, steps
from orchestrator.core.types import Replica
from orchestrator.policy import load_policy
from orchestrator.ports import Cluster, ClusterUnavailable, ClusterView, LedgerUnavailable, SignalSource
from orchestrator.ports import Snapshot as Registry
from orchestrator.published import service_view
from orchestrator.yaml_file import FileError, read_text

log = logging.getLogger(__name__)

TICK_S = 5.0


class ServicePolicy:
    """What control needs of a policy file that may be edited meanwhile.

    Args:
        path: The file.
        hardware: Facts of what the service may run on.

    Attributes:
        model: Under which gateways and replicas of the service register.

    Raises:
        PolicyError: The file is wrong, its model has no profile, or it asks for what cannot be.
        FileError: A data file is wrong.
    """

    def __init__(self, path: Path, hardware: Hardware) -> None:
        self._path = path
        self._hardware = hardware
        self._text = read_text(path)
        self._policy = load_control_policy(path, hardware)
        self.model = load_policy(path).model.name

    def current(self) -> ControlPolicy:
        """Return the policy in force, after a look at the file; an edit that is wrong is not taken."""
        try:
            text = read_text(self._path)
            if text != self._text:
                self._text = text
                self._policy = load_control_policy(self._path, self._hardware)
                log.info("policy edit taken", extra={"service": self._policy.service})
        except FileError as error:
            log.error("policy edit not taken: %s", error)
        return self._policy


class Controller:
    """One controller of some services on one cluster, or on several that are one to it.

    Args:
        cluster: It.
        sources: Where gateways and replicas say how they are; one of each shard.
        services: By name.
        now_s: Seconds since 1970 that never jump.
        clusters: Names of those that `cluster` is made of; none where it is one.
        acts: Whether decisions are carried out; if not, they are only told.

    Attributes:
        metrics: Of its decisions.
    """

    def __init__(
        self,
        cluster: Cluster,
        sources: Sequence[SignalSource],
        services: Mapping[str, ServicePolicy],
        now_s: Callable[[], float],
        *,
        clusters: Sequence[str] = (),
        acts: bool = True,
    ) -> None:
        self._cluster = cluster
        self._sources = sources
        self._services = services
        self._now_s = now_s
        self._clusters = clusters
        self._acts = acts
        self.metrics = ControlMetrics()
        self._observed: Mapping[str, Observed] = {}
        self._state: Mapping[str, ServiceState] = {}
        self._shares: Mapping[str, Mapping[str, float]] = {}

    async def run(self) -> None:
        """Tick until cancelled; a tick that fails is told, and the next one starts from what is then."""
        while True:
            started_s = self._now_s()
            try:
                await self.tick()
            except ClusterUnavailable as error:
                log.warning("no decision: %s", error)
            await asyncio.sleep(max(0.0, started_s + TICK_S - self._now_s()))

    async def tick(self) -> Decision:
        """Observe, decide and apply once.

        Raises:
            ClusterUnavailable: The cluster cannot be seen or changed; what was done is seen at the next tick.
        """
        now_s = self._now_s()
        policies = self._policies()
        registry = await self._registry()
        seen = await asyncio.to_thread(self._cluster.look, now_s)
        replica_ids = _replica_ids(registry, seen.pods)
        replicas = _replicas(seen.pods, replica_ids, registry)
        snapshot, self._observed = observe(
            {name: self._view(name, registry, seen) for name in policies},
            replicas,
            seen.nodes,
            self._observed,
            now_s,
            seen.orders,
        )
        decision = decide(snapshot, policies, self._state, now_s)
        self._state = decision.state
        self.metrics.decided(decision)
        pod_of = {replica_id: name for name, replica_id in replica_ids.items()}
        todo = steps(decision.changes, seen.pods, seen.counts, pod_of)
        _tell(decision, todo, seen)
        if self._clusters:
            self._share(decision, policies, zip(seen.pods, replicas, strict=True))
        if self._acts:
            await asyncio.to_thread(self._apply, seen.inform, todo, now_s)
        return decision

    def _policies(self) -> Mapping[str, ControlPolicy]:
        policies = {name: service.current() for name, service in self._services.items()}
        if not self._clusters:
            return policies
        return {name: across_clusters(policy) for name, policy in policies.items()}

    def _view(self, name: str, registry: Registry, seen: ClusterView) -> ServiceView:
        view = service_view(registry, self._services[name].model)
        return replace(view, complete=view.complete and seen.complete)

    def _share(
        self,
        decision: Decision,
        policies: Mapping[str, ControlPolicy],
        there: Iterable[tuple[Pod, PlacedReplica]],
    ) -> None:
        """Say which part of each service's requests each cluster can take after the decision."""
        going = decision.changes.leaving
        staying = [(pod.pool.cluster, replica) for pod, replica in there if replica.replica_id not in going]
        replicas = {name: [replica for at, replica in staying if at == name] for name in self._clusters}
        found = {name: shares(plan, policies[name], replicas) for name, plan in decision.plans.items()}
        self.metrics.shared(found)
        told = {name: {at: round(part, 2) for at, part in each.items()} for name, each in found.items()}
        if told != self._shares:
            log.info("shares", extra={"shares": told})
        self._shares = told

    async def _registry(self) -> Registry:
        """Return what is registered on all shards."""
        shards = await asyncio.gather(*[_heard(source) for source in self._sources])
        return Registry(
            replicas=tuple(replica for shard in shards for replica in shard.replicas),
            gateways={name: report for shard in shards for name, report in shard.gateways.items()},
        )

    def _apply(self, inform: Sequence[Inform], todo: Steps, now_s: float) -> None:
        for each in inform:
            self._cluster.inform(each)
        for admit in todo.admit:
            self._cluster.admit(admit, now_s)
        for move in todo.move:
            self._cluster.move(move, now_s)
        for scale in todo.scale:
            self._cluster.scale(scale)


async def _heard(source: SignalSource) -> Registry:
    """Return what is registered; nothing if the ledger is away, and then nothing of its services shrinks."""
    try:
        return await source.snapshot()
    except LedgerUnavailable as error:
        log.warning("nothing is heard of gateways and replicas: %s", error)
        return Registry()


def _replica_ids(registry: Registry, pods: Sequence[Pod]) -> Mapping[str, str]:
    """Return under which id each pod's replica registered, or else the pod's name, by name."""
    entries = registry.replicas
    registered = {entry.replica.replica_id.rpartition(".")[0]: entry.replica.replica_id for entry in entries}
    return {pod.name: registered.get(pod.name, pod.name) for pod in pods}


def _replicas(pods: Sequence[Pod], replica_ids: Mapping[str, str], registry: Registry) -> list[PlacedReplica]:
    known = {entry.replica.replica_id: entry.replica for entry in registry.replicas}
    return [_replica(pod, replica_ids[pod.name], known.get(replica_ids[pod.name])) for pod in pods]


def _replica(pod: Pod, replica_id: str, known: Replica | None) -> PlacedReplica:
    if known is None:
        return as_replica(pod, replica_id)
    # One that was moved says that it is ready, and does what it did before, until it has changed its role.
    as_it_is = pod if known.stage is pod.pool.stage else replace(pod, ready=False)
    return as_replica(as_it_is, replica_id, float(known.pending_tokens))


def _tell(decision: Decision, todo: Steps, seen: ClusterView) -> None:
    """Log what is done and why; a tick that changes nothing says nothing."""
    if not (todo.admit or todo.move or todo.scale):
        return
    # A waiting pod that is admitted counts as removed to `place`: another stands in for it.
    stay = {each.pod for each in todo.admit}
    why = {name: reason for name, reason in decision.changes.leaving.items() if name not in stay}
    log.info(
        "decision",
        extra={
            "scale": {_name(each.pool): [seen.counts[each.pool], each.replicas] for each in todo.scale},
            "admit": {each.pod: [each.create.node_id, each.create.reason] for each in todo.admit},
            "move": {each.pod: each.stands_for for each in todo.move},
            "remove": why,
            "deferred": todo.deferred,
            "without_pool": [_name(pool) for pool in todo.without_pool],
            "reasons": {name: _plan(decision, name) for name in decision.plans},
        },
    )


def _name(pool: Pool) -> str:
    return "/".join(filter(None, pool))


def _plan(decision: Decision, service: str) -> Mapping[str, Any]:
    stages = decision.plans[service].stages
    return {stage: [each.replicas, round(each.need, 3), each.reason] for stage, each in stages.items()}
