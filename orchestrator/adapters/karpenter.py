"""Karpenter's objects: which nodes it could make, and which it has made to order.

A NodePool is offered if its template bears our labels of hardware and accelerators, if it requires our label
of an order with the operator `Exists`, and if it limits its accelerators. Karpenter then gives a new node the
order that a pod selects by, so that the node is that order's and no other's.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import ceil
from typing import Any

from orchestrator.adapters.kube_resources import amount
from orchestrator.core.orders import NodePool, order_id, pool_and_number
from orchestrator.kube_names import (
    ACCELERATOR_TAINT,
    ACCELERATORS,
    HARDWARE,
    KARPENTER,
    KARPENTER_INITIALIZED,
    KARPENTER_POOL,
    ORDER,
    resource_of,
)

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Made:
    """Nodes that Karpenter made to order.

    Attributes:
        orders: Theirs by name of the node.
        nodes: Names of nodes by order.
        coming: Names of those whose accelerators cannot be asked for yet: they still count as orders.
    """

    orders: Mapping[str, str] = field(default_factory=dict)
    nodes: Mapping[str, str] = field(default_factory=dict)
    coming: frozenset[str] = frozenset()

    def place(self, node_id: str) -> str:
        """Return the id by which a node or an order is known now."""
        if node_id in self.coming:
            return self.orders[node_id]
        name = self.nodes.get(node_id, node_id)
        return node_id if name in self.coming else name


def made_of(nodes: Iterable[Object]) -> Made:
    """Return what of the nodes was made to order."""
    labels = {str(node["metadata"]["name"]): node["metadata"]["labels"] for node in nodes}
    made = {name: own for name, own in labels.items() if ORDER in own and KARPENTER_POOL in own}
    orders = {name: order_id(own[KARPENTER_POOL], own[ORDER]) for name, own in made.items()}
    return Made(
        orders=orders,
        # Of several nodes of one order, which a race may bring about, the last.
        nodes={order: name for name, order in sorted(orders.items())},
        coming=frozenset(name for name, own in made.items() if own.get(KARPENTER_INITIALIZED) != "true"),
    )


def selector_of(order: str) -> dict[str, str]:
    """Return by which labels a pod asks for an order."""
    pool, number = pool_and_number(order)
    return {KARPENTER_POOL: pool, ORDER: number}


def leaves(node: Object) -> bool:
    """Return whether Karpenter keeps pods off a node: it is new, or it is to go."""
    taints = node["spec"].get("taints", ())
    return any(taint["key"].startswith(f"{KARPENTER}/") for taint in taints)


def node_pools(things: Iterable[Object], levels: Sequence[str]) -> Iterator[NodePool]:
    """Yield what can be ordered of NodePools, version 1.

    Args:
        things: NodePools.
        levels: Node labels of the topology, widest first.
    """
    for thing in things:
        template, limits = thing["spec"]["template"], thing["spec"].get("limits", {})
        labels = template.get("metadata", {}).get("labels", {})
        if {HARDWARE, ACCELERATORS} <= labels.keys() and _to_order(template) and _ready(thing):
            resource, each = resource_of(labels[HARDWARE]), int(labels[ACCELERATORS])
            if resource in limits:
                used = thing.get("status", {}).get("resources", {})
                yield NodePool(
                    name=thing["metadata"]["name"],
                    hardware=labels[HARDWARE],
                    accelerators=each,
                    most=int(amount(limits, resource) / each),
                    claimed=ceil(amount(used, resource) / each),
                    domains=_domains(template, levels),
                )


def _to_order(template: Object) -> bool:
    """Return whether pods can ask for a node of their own, and are let onto it."""
    spec = template["spec"]
    asked = any(each["key"] == ORDER and each["operator"] == "Exists" for each in spec["requirements"])
    return asked and all(taint["key"] == ACCELERATOR_TAINT["key"] for taint in spec.get("taints", ()))


def _ready(thing: Object) -> bool:
    conditions = thing.get("status", {}).get("conditions", ())
    says_no = any(each["type"] == "Ready" and each["status"] == "False" for each in conditions)
    return not says_no and "deletionTimestamp" not in thing["metadata"]


def _domains(template: Object, levels: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return the values of the leading levels that a pod may choose between; no more than the pool names."""
    named = {e["key"]: e["values"] for e in template["spec"]["requirements"] if e["operator"] == "In"}
    named |= {key: [value] for key, value in template["metadata"]["labels"].items()}
    known: list[Sequence[str]] = []
    for level in levels:
        if level not in named:
            break
        known.append(named[level])
    return tuple(product(*known))
