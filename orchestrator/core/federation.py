"""Several clusters under one control: the cluster is the widest level of the topology, as it is data."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from orchestrator.core.hardware import weight
from orchestrator.core.observed import PlacedReplica, ReplicaState
from orchestrator.core.planned import ControlPolicy, EdgeLevels, ScalePlan
from stages.types import Stage

LEVEL = "cluster"
"""Topology level whose values are the names of the clusters."""


def across_clusters(policy: ControlPolicy) -> ControlPolicy:
    """Return a policy for nodes whose widest level is the cluster, which every edge requires then.

    A request never leaves its cluster, so what works together for it may not either.
    """
    edges = policy.edges
    return replace(
        policy,
        levels=(LEVEL, *policy.levels),
        edges=EdgeLevels(
            encode_prefill=edges.encode_prefill + 1,
            prefill_decode=edges.prefill_decode + 1,
        ),
    )


def shares(
    plan: ScalePlan, policy: ControlPolicy, replicas: Mapping[str, Iterable[PlacedReplica]]
) -> Mapping[str, float]:
    """Return which part of a service's requests each cluster can take, 0 to 1; all 0.0 if none can take any.

    A request needs every stage, so a cluster can take as much as the stage that it has least of, beside what
    the present demand needs of that stage; while there is no demand, beside what is planned.

    Args:
        plan: The service's.
        policy: The service's.
        replicas: By cluster; those of other services and those that are not ready do not count.
    """
    needs = {stage: each.need for stage, each in plan.stages.items() if each.need > 0.0}
    needs = needs or {stage: float(each.replicas) for stage, each in plan.stages.items() if each.replicas}
    flows = {cluster: _flow(needs, policy, replicas[cluster]) for cluster in sorted(replicas)}
    whole = sum(flows.values())
    return {cluster: flow / whole if whole else 0.0 for cluster, flow in flows.items()}


def _flow(needs: Mapping[Stage, float], policy: ControlPolicy, replicas: Iterable[PlacedReplica]) -> float:
    """Return how many times the needs of all stages are met."""
    capacity = dict.fromkeys(needs, 0.0)
    for each in replicas:
        if each.service == policy.service and each.state is ReplicaState.READY and each.stage in capacity:
            capacity[each.stage] += weight(policy, each.stage, each.hardware, each.tp)
    return min([capacity[stage] / need for stage, need in needs.items()], default=0.0)
