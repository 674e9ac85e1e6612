"""place(): which replicas go, which come and where; diff(): what that changes."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.core.changes import Create, PlaceReason, Remove, Switch
from orchestrator.core.groups import EPSILON, Layout
from orchestrator.core.observed import Node, PlacedReplica, ReplicaState, Snapshot
from orchestrator.core.orders import offers, within_limits
from orchestrator.core.placement import Placement, apply, diff, kind
from orchestrator.core.planned import ControlPolicy, ScalePlan
from orchestrator.core.role_switch import switched
from orchestrator.core.scale_in import scale_in
from orchestrator.core.scale_out import grow, scale_out
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
    least there is; several services are placed one after the other, the least flexible first, and once
    more with those first that found no place. Where a service finds too little room, encode has its first
    replica before prefill and decode take the last of it.

    Where the engine can switch roles, what prefill gives up becomes what decode lacks, or the reverse,
    before anything is created.

    What is removed, or drains already, keeps its accelerators: only the next decision that sees them
    free gives them away. Placing again after the changes were made changes nothing.

    Nodes that could be ordered get what finds no place on the others, whatever it would cost there: those
    run and are paid for already.

    Args:
        plans: By service; replicas of services without a plan or a policy are left alone.
        policies: By service.
        snapshot: Order of replicas and nodes does not matter.
    """
    first, snapshot = _orderly(plans, policies, snapshot, frozenset())
    stuck = frozenset([each.service for each in first.unplaced])
    if not stuck or {each.service for each in first.create} <= stuck:
        return first
    second, _ = _orderly(plans, policies, snapshot, stuck)
    return min(first, second, key=lambda p: _loss(p, policies))


def _orderly(
    plans: Mapping[str, ScalePlan],
    policies: Mapping[str, ControlPolicy],
    snapshot: Snapshot,
    ahead: frozenset[str],
) -> tuple[Placement, Snapshot]:
    """Return an attempt that orders no more than each node pool would make, and what it chose from."""
    while True:
        found = _attempt(plans, policies, snapshot, ahead)
        within = within_limits(found.create, snapshot)
        if within is snapshot:
            return found, snapshot
        snapshot = within  # of one more node pool there is no more on offer than it would make


def _attempt(
    plans: Mapping[str, ScalePlan],
    policies: Mapping[str, ControlPolicy],
    snapshot: Snapshot,
    ahead: frozenset[str],
) -> Placement:
    """Place one service after the other, those that are `ahead` first."""
    own: defaultdict[str, list[PlacedReplica]] = defaultdict(list)
    for replica in snapshot.replicas:
        own[replica.service].append(replica)
    layouts = [
        Layout(policies[name], plans[name], own[name]) for name in sorted(plans.keys() & policies.keys())
    ]
    if all(layout.settled() for layout in layouts):  # as at most ticks: no need to look at the fleet
        return Placement(kept=_kept(snapshot.replicas, ()))
    usable = {node.node_id for node in snapshot.nodes if node.ready}
    room = _room(policies.values(), snapshot)
    remove: list[Remove] = []
    switch: list[Switch] = []
    for layout in layouts:
        superfluous = scale_in(layout, room.topology)
        by_id = {replica.replica_id: replica for replica in own[layout.policy.service]}
        roles = switched(layout, room.topology, superfluous, by_id, usable)
        stay = {each.replica_id for each in roles}
        remove += [each for each in superfluous if each.replica_id not in stay]
        switch += roles
    create: list[Create] = []
    unplaced: list[Create] = []
    turn = sorted(layouts, key=lambda layout: (layout.policy.service not in ahead, _order(layout)))
    extra = _with_orders(turn, room, offers(snapshot))
    for layout in turn:
        created = extra[layout.policy.service] if extra else scale_out(layout, room)
        missing = _unplaced(layout, room)
        remove += _no_longer_waiting(layout, created, missing)
        create += created
        unplaced += missing
    return Placement(
        kept=_kept(snapshot.replicas, [*remove, *switch]),
        remove=tuple(remove),
        switch=tuple(switch),
        create=tuple(create),
        unplaced=tuple(unplaced),
    )


def _with_orders(turn: Sequence[Layout], room: Room, offered: Sequence[Node]) -> Mapping[str, list[Create]]:
    """Return what is created by service: all on nodes that exist, then the rest on those that can be ordered.

    Nothing if none can be.
    """
    if not offered:
        return {}
    created = {layout.policy.service: scale_out(layout, room) for layout in turn}
    for node in offered:
        room.topology.give_back([node.node_id], node.accelerators)
    for layout in turn:
        created[layout.policy.service] += grow(layout, room)
    return created


def _kept(replicas: Iterable[PlacedReplica], changed: Iterable[Remove | Switch]) -> frozenset[str]:
    gone = {each.replica_id for each in changed}
    alive = [r.replica_id for r in replicas if r.state is not ReplicaState.DRAINING]
    return frozenset(alive) - gone


def _loss(placement: Placement, policies: Mapping[str, ControlPolicy]) -> tuple[int, float]:
    """Return accelerators that the unplaced would take, and US dollars per hour of what is created."""
    cost = [
        each.tp * policies[each.service].accelerators[each.hardware].cost_per_h for each in placement.create
    ]
    return sum([each.tp for each in placement.unplaced]), round(sum(cost), 6)


def _room(policies: Iterable[ControlPolicy], snapshot: Snapshot) -> Room:
    used: defaultdict[str, int] = defaultdict(int)
    used_of_type: defaultdict[str, int] = defaultdict(int)
    for replica in snapshot.replicas:
        if replica.node_id:
            used[replica.node_id] += replica.tp
            used_of_type[replica.hardware] += replica.tp
    # Full at first: only what finds no place without them is ordered.
    used |= {node.node_id: node.accelerators for node in offers(snapshot)}
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
