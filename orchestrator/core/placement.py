"""Placement as a value, the changes that lead to it, and what the cluster is after them."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from orchestrator.core.changes import Changes, Create, Remove, Switch
from orchestrator.core.observed import PlacedReplica, ReplicaState, Snapshot
from stages.types import Stage

Kind = tuple[str, Stage, str, int]
"""(service, stage, hardware, tp)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Which replicas there should be and where.

    Attributes:
        kept: Ids of replicas that stay as they are; those that drain already are neither kept nor removed.
        remove: Replicas to drain.
        switch: Replicas that stay and take another role.
        create: Replicas to start, each with its node.
        unplaced: Replicas that the plan calls for and that have no place, each with the reason; of the
            stage's first hardware type. Kept replicas without a node are some of these.
    """

    kept: frozenset[str]
    remove: tuple[Remove, ...] = ()
    switch: tuple[Switch, ...] = ()
    create: tuple[Create, ...] = ()
    unplaced: tuple[Create, ...] = ()


def diff(placement: Placement, snapshot: Snapshot) -> Changes:
    """Return what leads from the snapshot to the placement.

    A replica without a place is created all the same, without a node, so that it can be seen to wait;
    once it is there it is not created again.
    """
    waiting = Counter(kind(r) for r in snapshot.replicas if not r.node_id and r.replica_id in placement.kept)
    create = list(placement.create)
    for wanted in placement.unplaced:
        if waiting[kind(wanted)] > 0:
            waiting[kind(wanted)] -= 1
        else:
            create.append(wanted)
    return Changes(remove=placement.remove, switch=placement.switch, create=tuple(create))


def apply(changes: Changes, snapshot: Snapshot, now_s: float = 0.0) -> Snapshot:
    """Return the snapshot right after the changes.

    What is removed drains, what takes another role is starting in it, what is created is pending.
    """
    roles = {switch.replica_id: switch.to for switch in changes.switch}
    removed = {remove.replica_id for remove in changes.remove}
    replicas = [
        _changed(r, drains=r.replica_id in removed, role=roles.get(r.replica_id, r.stage), now_s=now_s)
        for r in snapshot.replicas
        if r.replica_id not in removed or r.node_id
    ]
    return replace(snapshot, replicas=(*replicas, *_created(changes.create, replicas, now_s)))


def _changed(replica: PlacedReplica, *, drains: bool, role: Stage, now_s: float) -> PlacedReplica:
    if drains:
        return replace(replica, state=ReplicaState.DRAINING)
    if role is not replica.stage:
        return replace(replica, stage=role, state=ReplicaState.STARTING, since_s=now_s)
    return replica


def kind(replica: PlacedReplica | Create) -> Kind:
    """Return what two replicas have in common that can stand in for each other."""
    return replica.service, replica.stage, replica.hardware, replica.tp


def _created(
    creates: Iterable[Create], replicas: Iterable[PlacedReplica], now_s: float
) -> list[PlacedReplica]:
    taken = {replica.replica_id for replica in replicas}
    numbers: Counter[str] = Counter()
    created = []
    for create in creates:
        stem = f"{create.service}-{create.stage}"
        while f"{stem}-{numbers[stem]:06d}" in taken:
            numbers[stem] += 1
        created.append(_pending(create, f"{stem}-{numbers[stem]:06d}", now_s))
        numbers[stem] += 1
    return created


def _pending(create: Create, replica_id: str, now_s: float) -> PlacedReplica:
    return PlacedReplica(
        replica_id=replica_id,
        service=create.service,
        stage=create.stage,
        hardware=create.hardware,
        tp=create.tp,
        node_id=create.node_id,
        group=create.group,
        state=ReplicaState.PENDING,
        since_s=now_s,
    )
