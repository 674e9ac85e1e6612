"""What of a simulated cluster does not work at a moment, and how faults make it so."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np

from orchestrator.core.observed import Node, ReplicaState
from orchestrator.simulator.clock import Clock
from orchestrator.simulator.faults import (
    Fault,
    MetricLoss,
    NodeLoss,
    QuotaCut,
    ReplicaLoss,
    StuckProvisioner,
    ZoneLoss,
    end_s,
)
from orchestrator.simulator.replica import SimReplica
from stages.types import Stage

ItemT = TypeVar("ItemT")


@dataclass(slots=True)
class Outages:
    """What does not work now; faults of one kind may overlap.

    Attributes:
        nodes: By id of a node that is gone, how many faults hold it.
        silent: Likewise by service and stage without samples; under the empty name, of all services, under
            None, of all stages.
        stuck: Faults that keep replicas from becoming ready.
        cuts: Quotas in force.
    """

    nodes: Counter[str] = field(default_factory=Counter)
    silent: Counter[tuple[str, Stage | None]] = field(default_factory=Counter)
    stuck: int = 0
    cuts: list[QuotaCut] = field(default_factory=list)

    def quotas(self) -> dict[str, int]:
        """Return the accelerators allowed by hardware type, of types with a quota."""
        lowest: dict[str, int] = {}
        for cut in self.cuts:
            lowest[cut.hardware] = min(cut.most, lowest.get(cut.hardware, cut.most))
        return lowest

    def is_silent(self, service: str, stage: Stage | None = None) -> bool:
        """Whether there are no samples of a service, or those of its replicas of a stage are missing."""
        return self.silent[service, stage] + self.silent["", stage] > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """A fault that happened.

    Attributes:
        hit: Ids of the replicas or nodes that it took, or what else it held, for people.
    """

    fault: Fault
    hit: tuple[str, ...]


class Faulty(Protocol):
    """What faults need of a world."""

    @property
    def outages(self) -> Outages:
        """What does not work now."""

    @property
    def nodes(self) -> Mapping[str, Node]:
        """Every node that there would be without faults, by id."""

    @property
    def replicas(self) -> Mapping[str, SimReplica]:
        """Every replica that exists, by id."""

    def lose(self, replicas: Sequence[SimReplica], node_ids: Sequence[str] = ()) -> None:
        """Replicas die, and what lies on nodes is gone."""

    def returned(self, node_ids: Sequence[str]) -> None:
        """Nodes are there again."""

    def unstuck(self) -> None:
        """Replicas become ready again."""


class Injector:
    """Makes faults happen.

    Args:
        world: Where.
        clock: The virtual clock.
        rng: Draws victims; of its own, so that faults change nothing else that is random.

    Attributes:
        strikes: What happened so far.
    """

    def __init__(self, world: Faulty, clock: Clock, rng: np.random.Generator) -> None:
        self._world = world
        self._clock = clock
        self._rng = rng
        self.strikes: list[Strike] = []

    def schedule(self, faults: Sequence[Fault]) -> None:
        """Have faults happen at their times; of one time, in their order."""
        for fault in faults:
            self._clock.at(fault.at_s, self._begin, fault)

    def _begin(self, fault: Fault) -> None:
        hit, undo = self._strike(fault)
        self.strikes.append(Strike(fault=fault, hit=tuple(hit)))
        if end_s(fault) < math.inf:
            self._clock.at(end_s(fault), lambda _: undo(), None)

    def _strike(self, fault: Fault) -> tuple[Sequence[str], Callable[[], None]]:
        """Begin a fault; return whom it hit, and what ends it."""
        match fault:
            case ReplicaLoss():
                return self._lose_replicas(fault), lambda: None
            case NodeLoss():
                return self._lose_nodes([fault.node] if fault.node else self._drawn_node())
            case ZoneLoss():
                return self._lose_nodes(self._nodes_of(fault.domain or self._drawn_domain()))
            case MetricLoss():
                return self._silence(fault)
            case StuckProvisioner():
                return self._stick()
            case QuotaCut():
                return self._cut(fault)

    def _lose_replicas(self, fault: ReplicaLoss) -> list[str]:
        running = [
            replica
            for _, replica in sorted(self._world.replicas.items())
            if replica.state in (ReplicaState.READY, ReplicaState.DRAINING)
            and fault.stage in (None, replica.stage)
            and fault.service in ("", replica.service)
        ]
        victims = self._draw(running, fault.count)
        self._world.lose(victims)
        return [replica.replica_id for replica in victims]

    def _lose_nodes(self, node_ids: Sequence[str]) -> tuple[Sequence[str], Callable[[], None]]:
        outages = self._world.outages
        outages.nodes.update(node_ids)
        on_them = [r for _, r in sorted(self._world.replicas.items()) if r.node_id in set(node_ids)]
        self._world.lose(on_them, node_ids)

        def undo() -> None:
            outages.nodes.subtract(node_ids)
            self._world.returned([node_id for node_id in node_ids if not outages.nodes[node_id]])

        return node_ids, undo

    def _drawn_node(self) -> list[str]:
        there = sorted(node for node in self._world.nodes if not self._world.outages.nodes[node])
        used = {replica.node_id for replica in self._world.replicas.values()}
        return self._draw([node for node in there if node in used] or there, 1)

    def _drawn_domain(self) -> str:
        """Return a widest domain with replicas; the empty name, of all nodes, if there are no levels."""
        nodes = self._world.nodes
        used = {nodes[r.node_id].domain for r in self._world.replicas.values() if r.node_id in nodes}
        names = sorted({domain[0] for domain in used if domain})
        return self._draw(names, 1)[0] if names else ""

    def _nodes_of(self, domain: str) -> list[str]:
        nodes = self._world.nodes
        return sorted(node_id for node_id, node in nodes.items() if not domain or domain in node.domain)

    def _silence(self, fault: MetricLoss) -> tuple[Sequence[str], Callable[[], None]]:
        silent, which = self._world.outages.silent, (fault.service, fault.stage)
        silent[which] += 1
        of_whom = fault.service or "all services"
        hit = f"replicas of {fault.stage}, {of_whom}" if fault.stage else of_whom
        return [hit], lambda: silent.subtract([which])

    def _stick(self) -> tuple[Sequence[str], Callable[[], None]]:
        self._world.outages.stuck += 1

        def undo() -> None:
            self._world.outages.stuck -= 1
            self._world.unstuck()

        return ["all replicas that start"], undo

    def _cut(self, fault: QuotaCut) -> tuple[Sequence[str], Callable[[], None]]:
        cuts = self._world.outages.cuts
        cuts.append(fault)
        return [fault.hardware], lambda: cuts.remove(fault)

    def _draw(self, items: Sequence[ItemT], count: int) -> list[ItemT]:
        chosen = self._rng.permutation(len(items))[:count]
        return [items[index] for index in sorted(chosen.tolist())]
