"""The simulated cluster: nodes, replicas that start and drain, and the loop that controls them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.core.changes import Changes, Create, Remove
from orchestrator.core.decide import Decision, ServiceState, decide
from orchestrator.core.observe import Observed, ServiceView, observe
from orchestrator.core.observed import Node, PlacedReplica, ReplicaState, Snapshot
from orchestrator.core.planned import ControlPolicy
from orchestrator.core.profile import HardwareClass
from orchestrator.simulator.build import ReplicaShape
from orchestrator.simulator.clock import Clock
from orchestrator.simulator.host_path import Arrive
from orchestrator.simulator.outages import Outages
from orchestrator.simulator.pool import Pool
from orchestrator.simulator.recovery import recover
from orchestrator.simulator.replica import SimReplica
from orchestrator.simulator.service import Service
from stages.types import Stage

Decide = Callable[[Snapshot, Mapping[str, ControlPolicy], Mapping[str, ServiceState], float], Decision]
"""What control is: `core.decide.decide`, or something that experiments compare it with."""

Watch = Callable[[float, Snapshot, Decision], None]
"""Hears of every decision, at its time."""


def unwatched(now_s: float, snapshot: Snapshot, decision: Decision) -> None:
    """Hear of a decision and do nothing."""


TICK_S = 5.0
NODE_KEPT_S = 600.0
"""A node without replicas is given back after so long; the next replica there waits for a new one."""
SWITCH_S = 5.0
"""From an empty replica of one role to a ready one of the other; SGLang does it by /pd_role_switch."""
SILENT = ServiceView(counts=(), readings={})
"""What is seen of a service when nothing is to be had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosted:
    """A service and how its replicas are made.

    Attributes:
        arrive: Takes its requests.
        shapes: By pool.
        policy: What control needs of its policy file.
    """

    service: Service
    arrive: Arrive
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
        decider: What it is.
        watch: Hears of every decision.

    Attributes:
        nodes: Every node that there would be without faults, by id.
        outages: What does not work now.
        replicas: Every one that exists, by id.
        accelerator_s: Accelerator-seconds of replicas that are gone, by (service, stage, hardware).
        gone_hops: Hops that replicas which are gone had been given, by (service, stage, replica).
        lost_at: When each node was last lost, by its id.
    """

    def __init__(
        self,
        clock: Clock,
        nodes: Sequence[Node],
        hosted: Mapping[str, Hosted],
        rng: np.random.Generator,
        *,
        scaled: bool,
        decider: Decide = decide,
        watch: Watch = unwatched,
    ) -> None:
        self._clock = clock
        self.nodes = {node.node_id: node for node in nodes}
        self.outages = Outages()
        self._hosted = hosted
        self._rng = rng
        self._scaled = scaled
        self._decide = decider
        self._watch = watch
        self._policies = {name: each.policy for name, each in hosted.items()}
        self._observed: Mapping[str, Observed] = {}
        self._state: Mapping[str, ServiceState] = {}
        self._boots = 0
        self._emptied_s: dict[str, float] = {}
        self._waiting: dict[str, PlacedReplica] = {}
        self._stalled: list[SimReplica] = []
        self.replicas: dict[str, SimReplica] = {}
        self.accelerator_s: dict[tuple[str, Stage, str], float] = {}
        self.gone_hops: dict[tuple[str, Stage, str], int] = {}
        self.lost_at: dict[str, float] = {}
        for each in hosted.values():
            each.service.journey.on_idle = self._emptied

    def start(self, changes: Changes) -> None:
        """Have the first replicas ready, and control begin."""
        for create in changes.create:
            self._ready(self._create(create))
        if self._scaled:
            self._clock.after(TICK_S, self._tick, None)

    def snapshot(self) -> Snapshot:
        """Observe."""
        snapshot, self._observed = observe(
            {name: self._view(name) for name in self._hosted},
            (*[replica.placed() for replica in self.replicas.values()], *self._waiting.values()),
            [node for node in self.nodes.values() if not self.outages.nodes[node.node_id]],
            self._observed,
            self._clock.now_s,
        )
        return replace(snapshot, quotas=self.outages.quotas())

    def apply(self, changes: Changes) -> None:
        """Drain what is to go, start what is to come."""
        for remove in changes.remove:
            self._remove(remove)
        for switch in changes.switch:
            self._switch(self.replicas[switch.replica_id], switch.to)
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

    def hops(self) -> dict[tuple[str, Stage, str], int]:
        """Return the hops that each replica was given, by (service, stage, replica)."""
        there = {(r.service, r.stage, r.replica_id): r.taken for r in self.replicas.values()}
        return self.gone_hops | there

    def lose(self, replicas: Sequence[SimReplica], node_ids: Sequence[str] = ()) -> None:
        """Replicas die, and what lies on nodes is gone; what they had is done again elsewhere."""
        self.lost_at.update(dict.fromkeys(node_ids, self._clock.now_s))
        for replica in replicas:
            self._gone(replica)
        for name, hosted in self._hosted.items():
            dead = [replica for replica in replicas if replica.service == name]
            if dead or node_ids:
                recover(hosted.service.journey, dead, node_ids, self.lost_at)
                hosted.service.journey.queues.dispatch_all()

    def returned(self, node_ids: Sequence[str]) -> None:
        """Nodes are there again; they are given back like those that were emptied now."""
        self._emptied_s.update(dict.fromkeys(node_ids, self._clock.now_s))

    def unstuck(self) -> None:
        """Replicas become ready that would have been, had nothing been stuck."""
        stalled, self._stalled = self._stalled, []
        for replica in stalled:
            self._ready(replica)

    def _view(self, service: str) -> ServiceView:
        if self.outages.is_silent(service):
            return SILENT
        view = self._hosted[service].service.view()
        lost = {stage: () for stage in Stage if self.outages.is_silent(service, stage)}
        return replace(view, readings={**view.readings, **lost}) if lost else view

    def _tick(self, _: None) -> None:
        now_s = self._clock.now_s
        for hosted in self._hosted.values():
            hosted.service.journey.queues.give_up_expired()
        snapshot = self.snapshot()
        decision = self._decide(snapshot, self._policies, self._state, now_s)
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
            engine=lambda made: shape.engine(where, self._clock, hosted.service.journey.milestones(made)),
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
        if replica.replica_id not in self.replicas or replica.state is not ReplicaState.STARTING:
            return
        if self.outages.stuck:
            self._stalled.append(replica)
            return
        replica.enter(ReplicaState.READY, self._clock.now_s)
        self._hosted[replica.service].service.journey.queues.dispatch_all()

    def _remove(self, remove: Remove) -> None:
        self._waiting.pop(remove.replica_id, None)
        replica = self.replicas.get(remove.replica_id)
        if replica is None:
            return
        replica.becomes = None
        self._drain(replica)

    def _switch(self, replica: SimReplica, to: Stage) -> None:
        """Let a replica finish its work, then begin as one of another stage; nothing starts cold."""
        replica.becomes = to
        self._drain(replica)

    def _drain(self, replica: SimReplica) -> None:
        replica.enter(ReplicaState.DRAINING, self._clock.now_s)
        if replica.empty:
            self._emptied(replica)

    def _emptied(self, replica: SimReplica) -> None:
        """A replica that drained has no work left."""
        if replica.becomes and replica.replica_id in self.replicas:
            after = self._create(
                Create(
                    service=replica.service,
                    stage=replica.becomes,
                    hardware=replica.hardware,
                    tp=replica.tp,
                    node_id=replica.node_id,
                    domain=replica.domain,
                    group=replica.group,
                )
            )
            self._clock.after(SWITCH_S, self._ready, after)
        self._gone(replica)

    def _gone(self, replica: SimReplica) -> None:
        if self.replicas.pop(replica.replica_id, None) is None:
            return
        service = self._hosted[replica.service].service
        pool = service.pool_of[replica.stage]
        pool.replicas.remove(replica)
        service.journey.forget(pool)
        pool.ended_busy_s += replica.engine.busy_s()
        self.gone_hops[replica.service, replica.stage, replica.replica_id] = replica.taken
        key = (replica.service, replica.stage, replica.hardware)
        spent_s = replica.tp * (self._clock.now_s - replica.created_s)
        self.accelerator_s[key] = self.accelerator_s.get(key, 0.0) + spent_s
        if not any(other.node_id == replica.node_id for other in self.replicas.values()):
            self._emptied_s[replica.node_id] = self._clock.now_s
