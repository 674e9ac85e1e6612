"""The nodes that a stack declares, as control and the simulator know nodes."""

from collections.abc import Iterable, Iterator, Mapping

from infra.objects.nodes import NodePoolArgs, node_objects
from orchestrator.core.observed import Node

_HOSTNAME = "kubernetes.io/hostname"
_ZONE = "topology.kubernetes.io/zone"
_EVERYWHERE = (_HOSTNAME, "topology.kubernetes.io/region", _ZONE)
"""Topology levels that the nodes of any real cluster bear."""

_ON_AWS = tuple(f"topology.k8s.aws/network-node-layer-{layer}" for layer in (1, 2, 3))
"""EKS labels the larger instance types with their place in the network."""

_UNKNOWN = "?"
"""Domain of nodes that are there and whose place nobody says: they are taken to be together."""


def fleet_of(pools: Iterable[NodePoolArgs], levels: tuple[str, ...]) -> tuple[Node, ...]:
    """Return the nodes of all pools, as many as Karpenter may buy.

    A node's domain ends before the first level that its pool does not bear, as it does to the controller.
    Those that Karpenter may buy take turns in its zones; where nothing is known of them each is by itself, as
    an order is to the controller.

    Args:
        pools: Node pools.
        levels: Topology levels, widest first.
    """
    return tuple(_node(pool, *each, levels) for pool in pools for each in _named(pool))


def borne_levels(pool: NodePoolArgs) -> set[str]:
    """Return the topology levels, and other labels, that every node of a pool bears."""
    labels = [set(labels) for _, labels in _named(pool)]
    return set.intersection(*labels) | _from_elsewhere(pool) if labels else _from_elsewhere(pool)


def _from_elsewhere(pool: NodePoolArgs) -> set[str]:
    if pool.config.simulated:
        return set()
    return {*_EVERYWHERE, *pool.config.levels, *(_ON_AWS if pool.config.karpenter else ())}


def _named(pool: NodePoolArgs) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield name and declared labels of each node; those that Karpenter may buy have no names yet."""
    bought = pool.config.karpenter
    if bought:
        for number in range(bought.max_accelerators // pool.config.accelerators):
            zone = {_ZONE: bought.zones[number % len(bought.zones)]} if bought.zones else {}
            yield f"{pool.name}-{number}", {**bought.labels, **zone}
    else:
        for thing in node_objects(pool):
            yield thing["metadata"]["name"], thing["metadata"]["labels"]


def _node(pool: NodePoolArgs, name: str, labels: Mapping[str, str], levels: tuple[str, ...]) -> Node:
    elsewhere = name if pool.config.karpenter else _UNKNOWN
    known = {**dict.fromkeys(_from_elsewhere(pool), elsewhere), _HOSTNAME: name, **labels}
    borne = next((depth for depth, level in enumerate(levels) if level not in known), len(levels))
    return Node(
        node_id=name,
        hardware=pool.config.hardware,
        accelerators=pool.config.accelerators,
        domain=tuple(known[level] for level in levels[:borne]),
    )
