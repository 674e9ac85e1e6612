"""place(): which replicas go, which come and where; diff(): what that changes."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.core.control_types import (
    ControlPolicy,
    Create,
    PlacedReplica,
    PlaceReason,
    Remove,
    ReplicaState,
    ScalePlan,
    Snapshot,
)
from orchestrator.core.groups import EPSILON, Layout
from orchestrator.core.placement import Placement, apply, diff, kind
from orchestrator.core.scale_in import scale_in
from orchestrator.core.scale_out import scale_out
from orchestrator.core.search import Room
from orchestrator.core.topology import Topology
from stages.types import Stage

__all__ = ["Placement", "apply", "diff", "place"]


def place(
    plans: Mapping[str, ScalePlan], policies: Mapping[str, ControlPolicy], snapshot: Snapshot
) -> Placement:
    """Return where the planned replicas go, at the least cost per hour.

    Minimises Σ cost·n over hardware classes such that each stage reaches its planned capacity, within
    free accelerators, the services' budgets, the fleet's quotas and the levels that edges require.
    Replicas that run are never moved. Among equals, groups are completed first, then what is least
    scarce is used (HeteroScale, arXiv 2508.19559), then what leaves the largest gaps. Prefill and decode
    of a new group come together or not at all. For one service that fits into one group the cost is the
    least there is; several services are placed one after the other, the least flexible first.

    What is removed, or drains already, keeps its accelerators: only the next decision that sees them
    free gives them away. Placing again after the changes were made changes nothing.

    Args:
        plans: By service; replicas of services without a plan or a policy are left alone.
        policies: By service.
        snapshot: Order of replicas and nodes does not matter.
    """
    names = sorted(plans.keys() & policies.keys())
    own: defaultdict[str, list[PlacedReplica]] = defaultdict(list)
    for replica in snapshot.replicas:
        own[replica.service].append(replica)
    room = _room(policies.values(), snapshot)
    layouts = {name: Layout(policies[name], plans[name], own[name]) for name in names}
    remove = [each for name in names for each in scale_in(layouts[name], room.topology)]
    create: list[Create] = []
    unplaced: list[Create] = []
    for layout in sorted(layouts.values(), key=_order):
        created = scale_out(layout, room)
        missing = _unplaced(layout, room)
        remove += _no_longer_waiting(layout, created, missing)
        create += created
        unplaced += missing
    gone = {each.replica_id for each in remove}
    return Placement(
        kept=frozenset(
            [
                r.replica_id
                for r in snapshot.replicas
                if r.state is not ReplicaState.DRAINING and r.replica_id not in gone
            ]
        ),
        remove=tuple(remove),
        create=tuple(create),
        unplaced=tuple(unplaced),
    )


def _room(policies: Iterable[ControlPolicy], snapshot: Snapshot) -> Room:
    used: defaultdict[str, int] = defaultdict(int)
    used_of_type: defaultdict[str, int] = defaultdict(int)
    for replica in snapshot.replicas:
        if replica.node_id:
            used[replica.node_id] += replica.tp
            used_of_type[replica.hardware] += replica.tp
    return Room(
        topology=Topology(
            snapshot.nodes, used, {b.tp for policy in policies for b in policy.stages.values()}
        ),
        quotas={hardware: quota - used_of_type[hardware] for hardware, quota in snapshot.quotas.items()},
    )


def _order(layout: Layout) -> tuple[int, int, float, str]:
    """Order services by how few ways they have: hardware types, then required levels, then size."""
    needs = layout.deficits()
    ways = sum([len(layout.options[stage]) for stage in needs])
    size = sum([need * layout.policy.stages[stage].tp for stage, need in needs.items()])
    return ways, -layout.depth, -round(size, 6), layout.policy.service


def _unplaced(layout: Layout, room: Room) -> list[Create]:
    missing = []
    for stage, need in sorted(layout.deficits().items()):
        bounds = layout.policy.stages[stage]
        waiting = Create(
            service=layout.policy.service,
            stage=stage,
            hardware=bounds.hardware[0] if bounds.hardware else "",
            tp=bounds.tp,
            node_id="",
            reason=_why_unplaced(layout, room, stage),
        )
        missing += [waiting] * math.ceil(need - EPSILON)
    return missing


def _why_unplaced(layout: Layout, room: Room, stage: Stage) -> PlaceReason:
    options, topology = layout.options[stage], room.topology
    if not options:
        return PlaceReason.NO_PROFILE
    if topology.depth < layout.depth:
        return PlaceReason.NO_DOMAIN
    fitting = [o for o in options if topology.slots(topology.root, o.hardware, o.tp)]
    if not fitting:
        return PlaceReason.NO_FREE_ACCELERATORS
    if all(o.tp > min(layout.left, room.quotas.get(o.hardware, o.tp)) for o in fitting):
        return PlaceReason.QUOTA
    return PlaceReason.GROUP_INCOMPLETE


def _no_longer_waiting(layout: Layout, create: Sequence[Create], unplaced: Sequence[Create]) -> list[Remove]:
    """Return replicas without a node that nobody waits for any more; the lowest ids stay."""
    wanted = Counter([kind(each) for each in unplaced])
    placed = {each.stage for each in create}
    gone = []
    for stage, waiting in sorted(layout.waiting.items()):
        reason = PlaceReason.PLACED_ELSEWHERE if stage in placed else PlaceReason.NOT_STARTED
        for replica in sorted(waiting, key=lambda r: r.replica_id):
            if wanted[kind(replica)] > 0:
                wanted[kind(replica)] -= 1
            else:
                gone.append(
                    Remove(replica_id=replica.replica_id, service=replica.service, stage=stage, reason=reason)
                )
    return gone
