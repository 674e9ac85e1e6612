"""A cluster in memory whose Deployments do what those of Kubernetes do."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import count

from orchestrator.core.observed import Node
from orchestrator.core.pools import Admit, Pod, Pool, Scale
from orchestrator.ports import ClusterUnavailable, ClusterView


@dataclass
class FakeCluster:
    """`orchestrator.ports.Cluster`.

    Attributes:
        tp: Accelerators of a pod, by pool; every pool that there is.
        starts: Whether pods that are bound become ready.
        away: Nobody can reach the cluster.
    """

    nodes: tuple[Node, ...]
    tp: dict[Pool, int]
    starts: bool = True
    away: bool = False
    counts: dict[Pool, int] = field(default_factory=dict)
    pods: dict[str, Pod] = field(default_factory=dict)
    victims: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.counts = self.counts or dict.fromkeys(self.tp, 0)
        self._numbers = count()

    def look(self, now_s: float) -> ClusterView:
        if self.away:
            raise ClusterUnavailable("away")
        return ClusterView(counts=dict(self.counts), pods=tuple(self.pods.values()), nodes=self.nodes)

    def admit(self, admit: Admit, now_s: float) -> None:
        create = admit.create
        self.pods[admit.pod] = replace(
            self.pods[admit.pod], gated=False, node_id=create.node_id, group=create.group, since_s=now_s
        )

    def scale(self, scale: Scale) -> None:
        self.counts[scale.pool] = scale.replicas
        self.victims |= set(scale.victims)

    def settle(self) -> None:
        """Have Kubernetes act: pods come and go, and those that were admitted run."""
        for pool, wanted in self.counts.items():
            have = [pod for pod in self.pods.values() if pod.pool == pool]
            for pod in sorted(have, key=self._to_go)[: max(0, len(have) - wanted)]:
                del self.pods[pod.name]
            for _ in range(wanted - len(have)):
                name = f"{pool.service}-{pool.stage}-{pool.hardware}-{next(self._numbers)}"
                self.pods[name] = Pod(name=name, pool=pool, tp=self.tp[pool], gated=True)
        for name, pod in self.pods.items():
            if not pod.gated:
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
