"""Prefill replicas that become decode replicas and back, where the engine can: nothing starts cold."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from orchestrator.core.changes import Remove, Switch
from orchestrator.core.groups import EPSILON, PARTNERS, Layout
from orchestrator.core.observed import PlacedReplica, ReplicaState
from orchestrator.core.topology import Topology


def switched(
    layout: Layout,
    topology: Topology,
    removed: Sequence[Remove],
    replicas: Mapping[str, PlacedReplica],
    usable: Collection[str],
) -> list[Switch]:
    """Turn replicas that the one of prefill and decode gives up into what the other lacks.

    A replica switches in its place: its node takes new replicas, its hardware is one that the other stage
    may run on at its size, its group keeps its levels and still has one to work with.

    Args:
        layout: The service, without what is removed; the switched are added to their new stage.
        topology: Of the fleet.
        removed: What is superfluous, in the order of its removal.
        replicas: The service's, by id.
        usable: Nodes that take new replicas.
    """
    if not layout.policy.switches_roles:
        return []
    candidates = [(each, replicas[each.replica_id]) for each in removed if each.stage in PARTNERS]
    layout.settle(topology)
    return [
        switch
        for each, replica in candidates
        if replica.state is ReplicaState.READY and replica.node_id in usable
        for switch in _switch(layout, each, replica)
    ]


def _switch(layout: Layout, removed: Remove, replica: PlacedReplica) -> list[Switch]:
    (to,) = [stage for stage in PARTNERS if stage is not removed.stage]
    group = layout.group(replica.group)
    weights = [
        option.weight
        for option in layout.options[to]
        if (option.hardware, option.tp) == (replica.hardware, replica.tp)
    ]
    fits = group.site is not None and layout.levels[to] <= layout.levels[removed.stage]
    lacking = layout.deficits().get(to, 0.0) > EPSILON
    if not (weights and fits and lacking and layout.has(group, removed.stage)):
        return []
    layout.add(group, to, weights[0])
    group.members[to].append((weights[0], replace(replica, stage=to)))
    return [Switch(replica_id=replica.replica_id, service=replica.service, stage=removed.stage, to=to)]
