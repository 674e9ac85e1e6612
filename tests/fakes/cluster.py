"""A cluster in memory whose Deployments do what those of Kubernetes do."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import count

from orchestrator.core.observed import Node
from orchestrator.core.orders import NodePool, is_order, orderable
from orchestrator.core.pools import Admit, Inform, Move, Pod, Pool, Scale
from orchestrator.ports import ClusterUnavailable, ClusterView


@dataclass
class FakeCluster:
    """`orchestrator.ports.Cluster`.

    Attributes:
        tp: Accelerators of a pod, by pool; every pool that there is.
        starts: Whether pods that are bound become ready.
        movable: Whether pods take another role when they are moved.
        away: Nobody can reach the cluster.
        node_pools: Who makes nodes that pods ask for; when, `make` says.
        sold_out: Zone in which they make none.
        depth: Topology levels.
        made: Nodes that were made, by order.
    """

    nodes: tuple[Node, ...]
    tp: dict[Pool, int]
    starts: bool = True
    movable: bool = False
    away: bool = False
    counts: dict[Pool, int] = field(default_factory=dict)
    pods: dict[str, Pod] = field(default_factory=dict)
    victims: set[str] = field(default_factory=set)
    node_pools: tuple[NodePool, ...] = ()
    depth: int = 0
    sold_out: str = ""
    made: dict[str, Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.counts = self.counts or dict.fromkeys(self.tp, 0)
        self._numbers = count()

    def look(self, now_s: float) -> ClusterView:
        if self.away:
            raise ClusterUnavailable("away")
        pods = tuple(self.pods.values())
        awaited = {pod.node_id for pod in pods if is_order(pod.node_id)}
        ordered, orders = orderable(self.node_pools, self.made, awaited, self.depth)
        nodes = (*self.nodes, *self.made.values(), *ordered)
        return ClusterView(counts=dict(self.counts), pods=pods, nodes=nodes, orders=orders)

    def admit(self, admit: Admit, now_s: float) -> None:
        create = admit.create
        self.pods[admit.pod] = replace(
            self.pods[admit.pod], gated=False, node_id=create.node_id, group=create.group, since_s=now_s
        )

    def move(self, move: Move, now_s: float) -> None:
        pool = self.pods[move.stands_for].pool
        self.pods[move.pod] = replace(self.pods[move.pod], pool=pool, ready=False, since_s=now_s)

    def scale(self, scale: Scale) -> None:
        self.counts[scale.pool] = scale.replicas
        self.victims |= set(scale.victims)

    def inform(self, inform: Inform) -> None:
        """Fakes know the domain of a node beforehand."""

    def make(self) -> None:
        """Have node pools make what pods have asked for, within their limits."""
        for pod in self.pods.values():
            if is_order(pod.node_id) and pod.node_id not in self.made:
                (pool,) = [pool for pool in self.node_pools if pod.node_id.startswith(f"{pool.name}/")]
                number = sum(order.startswith(f"{pool.name}/") for order in self.made)
                assert number < pool.most, "more was ordered than the pool makes"
                ordered, _ = orderable(self.node_pools, self.made, {pod.node_id}, self.depth)
                (node,) = [node for node in ordered if node.node_id == pod.node_id]
                if node.domain[:1] != (self.sold_out,):
                    self.made[node.node_id] = replace(node, node_id=node.node_id.replace("/", "-"))
        for name, pod in self.pods.items():
            if pod.node_id in self.made:
                self.pods[name] = replace(pod, node_id=self.made[pod.node_id].node_id)

    def settle(self) -> None:
        """Have Kubernetes act: pods come and go, and those that were admitted run."""
        for pool, wanted in self.counts.items():
            have = [pod for pod in self.pods.values() if pod.pool == pool]
            for pod in sorted(have, key=self._to_go)[: max(0, len(have) - wanted)]:
                del self.pods[pod.name]
            for _ in range(wanted - len(have)):
                name = f"{pool.service}-{pool.stage}-{pool.hardware}-{next(self._numbers)}"
                self.pods[name] = Pod(
                    name=name, pool=pool, tp=self.tp[pool], movable=self.movable, gated=True
                )
        for name, pod in self.pods.items():
            if pod.node_id and not is_order(pod.node_id):
                self.pods[name] = replace(pod, bound=True, ready=pod.ready or self.starts)

    def _to_go(self, pod: Pod) -> tuple[bool, bool, bool, str]:
        # Kubernetes: not yet assigned, then not ready, then the least deletion cost.
        return pod.bound, pod.ready, pod.name not in self.victims, pod.name


def pools(pods: Iterable[Pod]) -> dict[Pool, int]:
    """Return how many there are of each."""
    found: dict[Pool, int] = {}
    for pod in pods:
        found[pod.pool] = found.get(pod.pool, 0) + 1
    return found
