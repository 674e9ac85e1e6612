"""The simulated cluster: nodes, replicas that start and drain, and the loop that controls them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.core.control_types import (
    Changes,
    ControlPolicy,
    Create,
    Node,
    PlacedReplica,
    Remove,
    ReplicaState,
    Snapshot,
)
from orchestrator.core.decide import Decision, ServiceState, decide
from orchestrator.core.profile import HardwareClass
from orchestrator.simulator.build import ReplicaShape
from orchestrator.simulator.clock import Clock
from orchestrator.simulator.pool import Pool
from orchestrator.simulator.replica import SimReplica
from orchestrator.simulator.service import Service
from stages.types import Stage

TICK_S = 5.0
NODE_KEPT_S = 600.0
"""A node without replicas is given back after so long; the next replica there waits for a new one."""

Watch = Callable[[float, Snapshot, Decision], None]


def unwatched(now_s: float, snapshot: Snapshot, decision: Decision) -> None:
    """Hear of a decision, and do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosted:
    """A service and how its replicas are made.

    Attributes:
        shapes: By pool.
        policy: What control needs of its policy file.
    """

    service: Service
    shapes: Mapping[Pool, ReplicaShape]
    policy: ControlPolicy


class World:
    """Services on one fleet.

    Args:
        clock: The virtual clock.
        nodes: The fleet.
        hosted: Services by name.
        rng: Samples cold starts.
        scaled: Whether control runs.
        watch: Hears of every decision.

    Attributes:
        replicas: Every one that exists, by id.
        accelerator_s: Accelerator-seconds of replicas that are gone, by (service, stage, hardware).
        hops: Hops that each replica was given, those that are gone included.
        decisions: How many were taken.
    """

    def __init__(
        self,
        clock: Clock,
        nodes: Sequence[Node],
        hosted: Mapping[str, Hosted],
        rng: np.random.Generator,
        *,
        scaled: bool,
        watch: Watch = unwatched,
    ) -> None:
        self._clock = clock
        self._nodes = {node.node_id: node for node in nodes}
        self._hosted = hosted
        self._rng = rng
        self._scaled = scaled
        self._watch = watch
        self._policies = {name: each.policy for name, each in hosted.items()}
        self._state: Mapping[str, ServiceState] = {}
        self._boots = 0
        self._emptied_s: dict[str, float] = {}
        self._waiting: dict[str, PlacedReplica] = {}
        self.replicas: dict[str, SimReplica] = {}
        self.accelerator_s: dict[tuple[str, Stage, str], float] = {}
        self.hops: dict[Stage, dict[str, int]] = {stage: {} for stage in Stage}
        for each in hosted.values():
            each.service.on_idle = self._gone

    def start(self, changes: Changes) -> None:
        """Have the first replicas ready, and control begin."""
        for create in changes.create:
            self._ready(self._create(create))
        if self._scaled:
            self._clock.after(TICK_S, self._tick, None)

    def snapshot(self) -> Snapshot:
        """Observe."""
        now_s = self._clock.now_s
        return Snapshot(
            services={
                name: each.service.totals.sample(now_s, each.service.now())
                for name, each in self._hosted.items()
            },
            replicas=(*[replica.placed() for replica in self.replicas.values()], *self._waiting.values()),
            nodes=tuple(self._nodes.values()),
        )

    def apply(self, changes: Changes) -> None:
        """Drain what is to go, start what is to come."""
        for remove in changes.remove:
            self._remove(remove)
        for create in changes.create:
            if create.node_id:
                self._boot(self._create(create))
            else:
                self._wait(create)

    def provisioned_s(self, now_s: float) -> dict[tuple[str, Stage, str], float]:
        """Return accelerator-seconds up to now by (service, stage, hardware)."""
        total = dict(self.accelerator_s)
        for replica in self.replicas.values():
            key = (replica.service, replica.stage, replica.hardware)
            total[key] = total.get(key, 0.0) + replica.tp * (now_s - replica.created_s)
        return total

    def hops_by_replica(self) -> dict[Stage, dict[str, int]]:
        """Return the hops that each replica was given, by the first stage of its pool."""
        now: dict[Stage, dict[str, int]] = {stage: dict(gone) for stage, gone in self.hops.items()}
        for replica in self.replicas.values():
            now[replica.stage][replica.replica_id] = replica.taken
        return now

    def lose(self, replica: SimReplica) -> None:
        """A replica dies; what it had is done again elsewhere."""
        service = self._hosted[replica.service].service
        self._gone(replica)
        service.lost(replica)
        for pool in service.pools:
            service.dispatch(pool)

    def _tick(self, _: None) -> None:
        now_s = self._clock.now_s
        snapshot = self.snapshot()
        decision = decide(snapshot, self._policies, self._state, now_s)
        self._state = decision.state
        self._watch(now_s, snapshot, decision)
        self.apply(decision.changes)
        self._clock.after(TICK_S, self._tick, None)

    def _create(self, create: Create) -> SimReplica:
        self._boots += 1
        hosted = self._hosted[create.service]
        pool = hosted.service.pool_of[create.stage]
        shape, where = hosted.shapes[pool], HardwareClass(create.hardware, create.tp)
        replica = SimReplica(
            f"{create.service}-{create.stage}-{self._boots:06d}",
            create.service,
            hosted.policy.profile.model,
            pool.stage,
            engine=shape.engine(where, self._clock, hosted.service.milestones),
            hardware=create.hardware,
            tp=create.tp,
            node_id=create.node_id,
            domain=create.domain,
            group=create.group,
            slots=shape.slots,
            total_kv_bytes=shape.kv_bytes(where),
            now_s=self._clock.now_s,
        )
        self.replicas[replica.replica_id] = replica
        pool.replicas.append(replica)
        return replica

    def _wait(self, create: Create) -> None:
        """Keep a replica that has no node yet, so that control sees that it is wanted."""
        self._boots += 1
        name = f"{create.service}-{create.stage}-{self._boots:06d}"
        self._waiting[name] = PlacedReplica(
            replica_id=name,
            service=create.service,
            stage=create.stage,
            hardware=create.hardware,
            tp=create.tp,
            node_id="",
            group=create.group,
            state=ReplicaState.PENDING,
            since_s=self._clock.now_s,
        )

    def _boot(self, replica: SimReplica) -> None:
        start = self._hosted[replica.service].policy.profile.cold_start[replica.stage]
        phases = [start.pull_s, start.load_s]
        emptied_s = self._emptied_s.pop(replica.node_id, None)
        if emptied_s is not None and self._clock.now_s - emptied_s > NODE_KEPT_S:
            phases.append(start.node_s)
        delay_s = sum(float(self._rng.uniform(low, high)) for low, high in phases)
        self._clock.after(delay_s, self._ready, replica)

    def _ready(self, replica: SimReplica) -> None:
        if replica.replica_id in self.replicas and replica.state is ReplicaState.STARTING:
            replica.enter(ReplicaState.READY, self._clock.now_s)
            hosted = self._hosted[replica.service]
            hosted.service.dispatch(hosted.service.pool_of[replica.stage])

    def _remove(self, remove: Remove) -> None:
        self._waiting.pop(remove.replica_id, None)
        replica = self.replicas.get(remove.replica_id)
        if replica is None:
            return
        replica.enter(ReplicaState.DRAINING, self._clock.now_s)
        if replica.empty:
            self._gone(replica)

    def _gone(self, replica: SimReplica) -> None:
        if self.replicas.pop(replica.replica_id, None) is None:
            return
        pool = self._hosted[replica.service].service.pool_of[replica.stage]
        pool.replicas.remove(replica)
        pool.ended_busy_s += replica.engine.busy_s()
        self.hops[replica.stage][replica.replica_id] = replica.taken
        key = (replica.service, replica.stage, replica.hardware)
        spent_s = replica.tp * (self._clock.now_s - replica.created_s)
        self.accelerator_s[key] = self.accelerator_s.get(key, 0.0) + spent_s
        if not any(other.node_id == replica.node_id for other in self.replicas.values()):
            self._emptied_s[replica.node_id] = self._clock.now_s
