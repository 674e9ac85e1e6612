"""steps(): the changes of a decision as what has to be done to pods and to the counts of pools.

A pool is the replicas of one stage on one hardware type: on Kubernetes a Deployment. Its pods are created
with a gate and have no node until one is chosen for them, so a replica comes in two steps: the count of
its pool rises, and once its pod is there, the pod is admitted to its place.

A pod that takes another role moves to the pool of that. It comes in two steps as well: the count of that pool
rises, and once a pod waits there, the one that moves stands in for it; Kubernetes deletes what waits first.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.core.changes import Changes, Create
from orchestrator.core.observed import PlacedReplica, ReplicaState
from stages.types import Stage


class Pool(NamedTuple):
    """Which replicas stand in for each other.

    Attributes:
        cluster: The one of a federation that it is in; empty where there is one cluster.
    """

    service: str
    stage: Stage
    hardware: str
    cluster: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """One replica as the cluster has it.

    Attributes:
        tp: Accelerators that it asks for.
        movable: Whether it takes another role when it is moved to the pool of that.
        gated: Whether it still waits for a place.
        node_id: Where it is bound, or else the node or order that was chosen for it; empty while it is gated.
        ready: Whether its probe says so.
        leaving: Whether it was told to end.
        failed: Whether it has said that it cannot start.
        since_s: When it came into its state, on the controller's clock.
    """

    name: str
    pool: Pool
    tp: int
    movable: bool = False
    gated: bool
    node_id: str = ""
    bound: bool = False
    group: str = ""
    ready: bool = False
    leaving: bool = False
    failed: bool = False
    since_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Admit:
    """Have a gated pod start in a place."""

    pod: str
    create: Create


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Have a pod take another role.

    Attributes:
        stands_for: A gated pod of the pool that it moves to.
    """

    pod: str
    stands_for: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inform:
    """Tell a pod that was placed on an order which domain the node has turned out to be in."""

    pod: str
    domain: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Set the count of a pool.

    Attributes:
        victims: Pods that shall go first if the count falls.
    """

    pool: Pool
    replicas: int
    victims: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What has to be done now.

    Attributes:
        deferred: Pods that go later: while others of their pool do not run, Kubernetes would delete those.
            Pods that move later, once there is one that they stand in for.
        without_pool: Replicas that the cluster has no pool for.
    """

    admit: tuple[Admit, ...] = ()
    move: tuple[Move, ...] = ()
    scale: tuple[Scale, ...] = ()
    deferred: tuple[str, ...] = ()
    without_pool: tuple[Pool, ...] = ()


def as_replica(pod: Pod, replica_id: str | None = None, pending_units: float = 0.0) -> PlacedReplica:
    """Return a pod as control sees it.

    Args:
        pod: It.
        replica_id: Under which it registered; its name if it has not.
        pending_units: Work it has.
    """
    return PlacedReplica(
        replica_id=replica_id or pod.name,
        service=pod.pool.service,
        stage=pod.pool.stage,
        hardware=pod.pool.hardware,
        tp=pod.tp,
        node_id=pod.node_id,
        group=pod.group,
        state=_state(pod),
        failed=pod.failed,
        since_s=pod.since_s,
        pending_units=pending_units,
    )


def _state(pod: Pod) -> ReplicaState:
    if pod.leaving:
        return ReplicaState.DRAINING
    if pod.ready:
        return ReplicaState.READY
    return ReplicaState.STARTING if pod.bound else ReplicaState.PENDING


def steps(
    changes: Changes, pods: Sequence[Pod], counts: Mapping[Pool, int], pod_of: Mapping[str, str]
) -> Steps:
    """Return what brings the cluster nearer to the changes; nothing once they are made.

    Counts are worked out from the pods that are there, not from the last count, so that a step which is
    repeated before Kubernetes has acted on it asks for the same again.

    A pod that switches roles and cannot move goes, and the pool of its new role gets a pod that waits for a
    place: the next decision finds it what the other leaves.

    Args:
        changes: Of a decision on these very pods.
        pods: All of them.
        counts: What each pool is told to have; every pool that there is.
        pod_of: Names of pods by replica id.
    """
    by_pool: defaultdict[Pool, list[Pod]] = defaultdict(list)
    for pod in sorted(pods, key=lambda pod: pod.name):
        if not pod.leaving:
            by_pool[pod.pool].append(pod)
    creates: defaultdict[Pool, list[Create]] = defaultdict(list)
    for create in changes.create:
        creates[_pool_of(create, counts)].append(create)
    by_name = {pod.name: pod for pod in pods}
    moving: defaultdict[Pool, list[str]] = defaultdict(list)
    for switch in changes.switch:
        pod = by_name[pod_of[switch.replica_id]]
        target = pod.pool._replace(stage=switch.to)
        if pod.movable and target in counts:
            moving[target].append(pod.name)
        else:
            creates[target].append(_unplaced(pod, switch.to))
    staying = {name for names in moving.values() for name in names}
    removed = {pod_of[replica_id] for replica_id in changes.leaving} - staying
    each = [
        _of_pool(pool, by_pool[pool], creates[pool], moving[pool], removed, counts[pool])
        for pool in sorted(counts)
    ]
    return Steps(
        admit=tuple(admit for one in each for admit in one.admit),
        move=tuple(move for one in each for move in one.move),
        scale=tuple(scale for one in each for scale in one.scale),
        deferred=tuple(name for one in each for name in one.deferred),
        without_pool=tuple(sorted(set(creates) - set(counts))),
    )


def _unplaced(pod: Pod, stage: Stage) -> Create:
    return Create(service=pod.pool.service, stage=stage, hardware=pod.pool.hardware, tp=pod.tp, node_id="")


def _pool_of(create: Create, pools: Collection[Pool]) -> Pool:
    """Return the pool that a replica comes from: where its place is, or else of the first with one."""
    alike = Pool(create.service, create.stage, create.hardware)
    if not any(pool.cluster for pool in pools):
        return alike
    if create.domain:
        return alike._replace(cluster=create.domain[0])
    return min([pool for pool in pools if pool._replace(cluster="") == alike], default=alike)


def _of_pool(
    pool: Pool,
    pods: Sequence[Pod],
    creates: Sequence[Create],
    moving: Sequence[str],
    removed: Collection[str],
    count: int,
) -> Steps:
    """Let waiting pods take the places that were found, and pods that move in stand for others that wait.

    What is left over changes the count.
    """
    waiting = [pod for pod in pods if pod.gated and pod.name in removed]
    placed = [create for create in creates if create.node_id]
    admit = tuple(Admit(pod=pod.name, create=create) for pod, create in zip(waiting, placed, strict=False))
    admitted = {each.pod for each in admit}
    # Of those that still wait, first the ones that nobody wants for themselves.
    left = sorted(
        [pod for pod in pods if pod.gated and pod.name not in admitted],
        key=lambda pod: pod.name not in removed,
    )
    move = tuple(Move(pod=name, stands_for=pod.name) for name, pod in zip(moving, left, strict=False))
    taken = admitted | {each.stands_for for each in move}
    going = [pod for pod in pods if pod.name in removed and pod.name not in taken]
    gone = {pod.name for pod in going}
    staying = [pod for pod in pods if pod.name not in gone]
    coming = len(creates) - len(admit) + len(moving) - len(move)
    settled = all(pod.ready for pod in staying)
    # Kubernetes takes pods without a node before all others, and of these what has the lowest deletion cost.
    deferred = [p for p in going if not p.gated and (coming or (p.bound and not settled))]
    victims = tuple(pod.name for pod in going if pod not in deferred)
    replicas = len(staying) + len(deferred) + coming
    scale = (Scale(pool=pool, replicas=replicas, victims=victims),) if replicas != count or victims else ()
    later = (*(pod.name for pod in deferred), *moving[len(move) :])
    return Steps(admit=admit, move=move, scale=scale, deferred=later)
