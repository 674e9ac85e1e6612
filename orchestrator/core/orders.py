"""Nodes that do not exist yet, offered to `place` beside those that do.

An *order* is one node that a node pool makes once a pod asks for that very node; pool and number are its id.
Of a new node the widest topology levels may be known, those that the pool lets a pod choose. What lies below
is not, so that there each order is a domain of its own: what has to share one fits on the one node, or goes
where nodes exist.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice

from orchestrator.core.changes import Create
from orchestrator.core.observed import Node, Snapshot

Site = tuple[str, ...]
"""A node pool and what is known of a new node's domain: where a type may have run out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePool:
    """Who makes equal nodes when pods ask for them.

    Attributes:
        hardware: Type of their accelerators.
        accelerators: Of one node.
        most: Nodes that it may have at once.
        claimed: Nodes that it has or makes, by its own account; it may lag behind.
        domains: What is known of a new node's domain, one for each that can be chosen; at least one.
    """

    name: str
    hardware: str
    accelerators: int
    most: int
    claimed: int = 0
    domains: tuple[tuple[str, ...], ...] = ((),)


def order_id(pool: str, number: str | int) -> str:
    """Return the id of an order, by which it is a node until there is one. No node's name has a slash."""
    return f"{pool}/{number}"


def is_order(node_id: str) -> bool:
    """Return whether a node does not exist yet."""
    return "/" in node_id


def pool_and_number(order: str) -> tuple[str, str]:
    """Return what `order_id` was made of."""
    pool, _, number = order.partition("/")
    return pool, number


def orderable(
    pools: Iterable[NodePool], made: Collection[str], awaited: Collection[str], depth: int
) -> tuple[tuple[Node, ...], Mapping[str, int]]:
    """Return the nodes that are on order and those that could be, and how many of these at most by pool.

    What is awaited counts against its pool's limit before the pool has heard of it. So many are offered for
    each domain that may be chosen, each with a number that stays with it.

    Args:
        pools: Their names differ.
        made: Orders of the nodes that exist.
        awaited: Orders that pods wait for, or that are on their way.
        depth: Topology levels.
    """
    nodes: list[Node] = []
    left: dict[str, int] = {}
    for pool in sorted(pools, key=lambda pool: pool.name):
        there = {number for each, number in map(pool_and_number, made) if each == pool.name}
        coming = {number for each, number in map(pool_and_number, awaited) if each == pool.name} - there
        left[pool.name] = max(0, pool.most - max(pool.claimed, len(there) + len(coming)))
        nodes += [_node(pool, number, depth) for number in sorted(coming)]
        free = _numbers(pool, there | coming, left[pool.name])
        nodes += [replace(_node(pool, number, depth), node_pool=pool.name) for number in free]
    return tuple(nodes), left


def _numbers(pool: NodePool, taken: Collection[str], most: int) -> Iterator[str]:
    """Yield numbers that are not taken, `most` for each domain."""
    for first in range(len(pool.domains)):
        numbers = (str(number) for number in count(first, len(pool.domains)))
        yield from islice((number for number in numbers if number not in taken), most)


def _node(pool: NodePool, number: str, depth: int) -> Node:
    """Return an order as a node."""
    order = order_id(pool.name, number)
    # Numbers that pools make up for pods without an order may be none.
    known = pool.domains[int(number) % len(pool.domains)] if number.isdecimal() else ()
    return Node(
        node_id=order,
        hardware=pool.hardware,
        accelerators=pool.accelerators,
        domain=(*known, *[order] * (depth - len(known))),
    )


def offers(snapshot: Snapshot) -> Sequence[Node]:
    """Return the nodes that could be ordered."""
    held = {replica.node_id for replica in snapshot.replicas}
    return [node for node in snapshot.nodes if node.node_pool and node.node_id not in held]


def within_limits(create: Iterable[Create], snapshot: Snapshot) -> Snapshot:
    """Return the snapshot itself, unless more was ordered of a pool than it would make.

    Then it offers of that pool only what was ordered first, as much as the pool would make.
    """
    offered = {node.node_id: node.node_pool for node in offers(snapshot)}
    ordered: defaultdict[str, list[str]] = defaultdict(list)
    for node_id in dict.fromkeys([each.node_id for each in create if each.node_id in offered]):
        ordered[offered[node_id]].append(node_id)
    left = {pool: _left(snapshot, pool) for pool in ordered}
    kept = {pool: ids[: left[pool]] for pool, ids in ordered.items() if len(ids) > left[pool]}
    return _without(
        snapshot, {node_id for node_id, pool in offered.items() if pool in kept and node_id not in kept[pool]}
    )


def _left(snapshot: Snapshot, pool: str) -> int:
    held = {replica.node_id for replica in snapshot.replicas}
    ordered = [node for node in snapshot.nodes if node.node_pool == pool and node.node_id in held]
    return max(0, snapshot.orders[pool] - len(ordered))


def _without(snapshot: Snapshot, gone: Collection[str]) -> Snapshot:
    if not gone:
        return snapshot
    return replace(snapshot, nodes=tuple(node for node in snapshot.nodes if node.node_id not in gone))


def shun(
    before: Mapping[Site, float], failed: Iterable[Node], now_s: float, for_s: float
) -> Mapping[Site, float]:
    """Return until when which sites are shunned, now that orders have come to nothing.

    Args:
        before: What this returned last.
        failed: Those orders, as nodes.
        now_s: Now.
        for_s: How long a site is shunned.
    """
    lasting = {site: until_s for site, until_s in before.items() if until_s > now_s}
    return lasting | {_site(node): now_s + for_s for node in failed}


def shunning(snapshot: Snapshot, sites: Collection[Site], failed: Collection[str]) -> Snapshot:
    """Return the snapshot without offers at these sites, and with nothing free on failed orders.

    A site is asked again all the same if there is no other for its hardware.
    """
    if not sites and not failed:
        return snapshot
    apart = {node.node_id: _site(node) in sites for node in offers(snapshot)}
    other = {node.hardware for node in offers(snapshot) if not apart[node.node_id]}
    gone = {node.node_id for node in offers(snapshot) if apart[node.node_id] and node.hardware in other}
    nodes = [replace(node, ready=False) if node.node_id in failed else node for node in snapshot.nodes]
    return _without(replace(snapshot, nodes=tuple(nodes)), gone)


def _site(order: Node) -> Site:
    pool, _ = pool_and_number(order.node_id)
    return (pool, *[value for value in order.domain if not is_order(value)])
