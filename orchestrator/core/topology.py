"""The fleet as a tree of domains: what is free in each, by hardware type and size of a replica.

A domain is known by its path: the values of the leading topology levels, widest first; the whole fleet
is `()`. Replicas of one size fill a domain exactly to its *slots*, the sum of ⌊free / size⌋ over its
nodes. Slots add up over nodes, so no question about a domain needs a look at its nodes.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from heapq import heapify, heappop, heappush

from orchestrator.core.observed import Node

Path = tuple[str, ...]
_Kind = tuple[int, str, int]
"""A level, a hardware type and a size."""


class Domain:
    """One domain.

    Attributes:
        path: Values of its levels, widest first.
        up: The domain around it; None for the whole fleet.
        children: The domains of the next level by value.
        types: Hardware types of all its nodes, ready or not.
        slots: Replicas that fit, by hardware type and then by place of the size in `Topology.sizes`.
        scarcity: How many levels below the widest one starts where hardware is of one type, in the best
            part of the domain: 0 to the number of levels. HeteroScale's classes with two levels: 0 is
            LOW (the widest domain has one type), 1 MED (mixed, its parts are not), 2 HIGH (they are
            too). What is least scarce is given away first.
        nodes: Free accelerators → ids of own nodes by hardware type, as heaps; may hold outdated entries.
        peaks: By level, hardware type and size: how many domains of that level inside have how many slots.
            Kept up once it was asked for; likewise `orders` and `scarcest`.
        orders: By hardware types: what its children have free of them, with their paths, ascending.
        scarcest: By level: see the function of this name.
    """

    __slots__ = (
        "children", "nodes", "orders", "path", "peaks", "scarcest", "scarcity", "slots", "types", "up",
    )  # fmt: skip

    def __init__(self, path: Path, up: "Domain | None") -> None:
        self.path = path
        self.up = up
        self.children: dict[str, Domain] = {}
        self.types: set[str] = set()
        self.slots: dict[str, list[int]] = {}
        self.scarcity = 0
        self.nodes: dict[str, dict[int, list[str]]] = {}
        self.peaks: dict[_Kind, dict[int, int]] = {}
        self.orders: dict[tuple[str, ...], list[tuple[int, Path]]] = {}
        self.scarcest: dict[int, int] = {}


class Topology:
    """Accelerators that are free, deducted from as replicas are placed: a ledger of one decision.

    Args:
        nodes: The fleet. Nodes that are not ready have nothing free.
        used: Accelerators taken by node id; more than a node has leaves it nothing.
        sizes: Accelerators per replica that will be asked about. Best-fit packing of them, largest
            first, wastes nothing if each divides the next, as powers of two do.
    """

    def __init__(self, nodes: Iterable[Node], used: Mapping[str, int], sizes: Collection[int]) -> None:
        self.sizes = tuple(sorted({1, *sizes}))
        self.root = Domain((), None)
        self._index = {size: i for i, size in enumerate(self.sizes)}
        self._known: dict[Path, Domain] = {(): self.root}
        self._depths: list[list[Domain]] = [[self.root]]
        self._free: dict[str, int] = {}
        self._home: dict[str, Domain] = {}
        self._hardware: dict[str, str] = {}
        for node in nodes:
            self._add(node, used.get(node.node_id, 0))
        self._settle(self.root)

    def find(self, path: Path) -> Domain | None:
        """Return the domain of a path, None if no node is in it."""
        return self._known.get(path)

    @property
    def depth(self) -> int:
        """The number of topology levels that the nodes have, at most."""
        return len(self._depths) - 1

    def slots(self, domain: Domain, hardware: str, size: int) -> int:
        """Return how many replicas of `size` accelerators still fit."""
        slots = domain.slots.get(hardware)
        return slots[self._index[size]] if slots else 0

    def peak(self, domain: Domain, depth: int, hardware: str, size: int) -> int:
        """Return the most slots that one domain has of those `depth` levels deep inside of a domain."""
        if len(domain.path) == depth:
            return self.slots(domain, hardware, size)
        counts = domain.peaks.get((depth, hardware, size))
        if counts is None:
            counts = Counter([self.slots(inner, hardware, size) for inner in below(domain, depth)])
            domain.peaks[depth, hardware, size] = counts
        return max(counts, default=0)

    def fullest_first(self, domain: Domain, types: tuple[str, ...], least: int) -> Iterator[Domain]:
        """Yield the domains of the next level with `least` accelerators free of some types, fullest first."""
        order = domain.orders.get(types)
        if order is None:
            order = sorted([(self._free_of(child, types), child.path) for child in domain.children.values()])
            domain.orders[types] = order
        for at in range(bisect_left(order, (least, ())), len(order)):
            yield self._known[order[at][1]]

    def _free_of(self, domain: Domain, types: tuple[str, ...]) -> int:
        return sum([self.slots(domain, hardware, 1) for hardware in types])

    def domain_of(self, node_id: str) -> Domain | None:
        """Return the innermost domain of a node, None for an unknown node."""
        return self._home.get(node_id)

    def fragmentation(self, domain: Domain, hardware: str) -> float:
        """Return the fraction of free accelerators that no replica of the largest size can use, 0 to 1."""
        free = self.slots(domain, hardware, 1)
        return 1.0 - self.slots(domain, hardware, self.sizes[-1]) * self.sizes[-1] / free if free else 0.0

    def take(self, domain: Domain, hardware: str, size: int, count: int) -> list[str] | None:
        """Deduct `count` replicas; return their nodes, or None, and deduct nothing, if they do not fit.

        They go where hardware is least scarce, together where that is possible, and there where the
        least is left over, so that large gaps stay large.
        """
        if self.slots(domain, hardware, size) < count:
            return None
        taken: list[str] = []
        while len(taken) < count:
            home = self._descend(domain, hardware, size, count - len(taken))
            for _ in range(min(count - len(taken), self._own_slots(home, hardware, size))):
                node_id = self._tightest(home, hardware, size)
                self._move(node_id, -size)
                taken.append(node_id)
        return taken

    def give_back(self, node_ids: Iterable[str], size: int) -> None:
        """Undo a `take`."""
        for node_id in node_ids:
            self._move(node_id, size)

    def _add(self, node: Node, used: int) -> None:
        home = self._domain(node.domain)
        free = max(0, node.accelerators - used) if node.ready else 0
        self._home[node.node_id] = home
        self._free[node.node_id] = free
        self._hardware[node.node_id] = node.hardware
        home.types.add(node.hardware)
        home.nodes.setdefault(node.hardware, {}).setdefault(free, []).append(node.node_id)

    def _domain(self, path: Path) -> Domain:
        found = self._known.get(path)
        if found is None:
            up = self._domain(path[:-1])
            found = self._known[path] = up.children[path[-1]] = Domain(path, up)
            while len(self._depths) <= len(path):
                self._depths.append([])
            self._depths[len(path)].append(found)
        return found

    def _settle(self, root: Domain) -> None:
        """Add up types and slots from the narrowest domains to the widest, then grade scarcity."""
        for level in reversed(self._depths):
            level.sort(key=_by_path)
            for domain in level:
                for hardware, heaps in domain.nodes.items():
                    self._count(domain, hardware, heaps)
                if domain.up is not None:
                    _include(domain.up, domain)
        _grade(root)

    def _count(self, domain: Domain, hardware: str, heaps: Mapping[int, list[str]]) -> None:
        slots = domain.slots.setdefault(hardware, [0] * len(self.sizes))
        for free, node_ids in heaps.items():
            heapify(node_ids)
            for i, size in enumerate(self.sizes):
                slots[i] += len(node_ids) * (free // size)

    def _own_slots(self, domain: Domain, hardware: str, size: int) -> int:
        below = sum([self.slots(child, hardware, size) for child in domain.children.values()])
        return self.slots(domain, hardware, size) - below

    def _descend(self, domain: Domain, hardware: str, size: int, count: int) -> Domain:
        """Return the domain with nodes of its own where the next of `count` replicas should go."""
        while domain.children:
            inside = [c for c in domain.children.values() if self.slots(c, hardware, size)]
            if not inside:
                break
            domain = min(inside, key=lambda c: self._rank(c, hardware, size, count))
        return domain

    def _rank(self, domain: Domain, hardware: str, size: int, count: int) -> tuple[int, bool, int, Path]:
        slots = self.slots(domain, hardware, size)
        together = slots >= count
        return domain.scarcity, not together, slots if together else -slots, domain.path

    def _tightest(self, home: Domain, hardware: str, size: int) -> str:
        heaps = home.nodes[hardware]
        for free in sorted(heaps):
            if free >= size and (node_id := self._first(heaps[free], free)):
                return node_id
        raise AssertionError("slots promised a node")

    def _first(self, heap: list[str], free: int) -> str:
        while heap and self._free[heap[0]] != free:
            heappop(heap)
        return heap[0] if heap else ""

    def _move(self, node_id: str, change: int) -> None:
        before = self._free[node_id]
        after = self._free[node_id] = before + change
        home, hardware = self._home[node_id], self._hardware[node_id]
        heappush(home.nodes[hardware].setdefault(after, []), node_id)
        changes = [
            (i, after // s - before // s) for i, s in enumerate(self.sizes) if after // s != before // s
        ]
        domain: Domain | None = home
        while domain is not None:
            slots = domain.slots[hardware]
            _reorder(domain, hardware, change)
            for i, change_of_slots in changes:
                slots[i] += change_of_slots
                _recount(domain, hardware, self.sizes[i], slots[i] - change_of_slots, slots[i])
            domain = domain.up


def _reorder(child: Domain, hardware: str, change: int) -> None:
    """Keep up the orders around a domain that has more or less free."""
    for types, order in child.up.orders.items() if child.up else ():
        if hardware in types:
            free = sum([child.slots[each][0] for each in types if each in child.slots])
            del order[bisect_left(order, (free, child.path))]
            insort(order, (free + change, child.path))


def _recount(domain: Domain, hardware: str, size: int, before: int, after: int) -> None:
    """Keep up the peaks of the domains around one whose slots have changed."""
    around = domain.up
    while around is not None:
        counts = around.peaks.get((len(domain.path), hardware, size))
        if counts is not None:
            counts[after] = counts.get(after, 0) + 1
            counts[before] -= 1
            if not counts[before]:
                del counts[before]
        around = around.up


def _by_path(domain: Domain) -> Path:
    return domain.path


def _include(up: Domain, domain: Domain) -> None:
    up.types |= domain.types
    for hardware, slots in domain.slots.items():
        total = up.slots.get(hardware)
        up.slots[hardware] = [a + b for a, b in zip(total, slots, strict=True)] if total else list(slots)


def _grade(domain: Domain, settled: int | None = None) -> int:
    """Grade a domain and those in it; `settled` is the grade of a domain around it of one type."""
    depth = len(domain.path)
    if settled is None and len(domain.types) == 1:
        settled = max(0, depth - 1)
    grades = [_grade(child, settled) for child in domain.children.values()]
    if settled is None and domain.nodes:
        grades.append(depth)
    domain.scarcity = settled if settled is not None else min(grades, default=depth)
    return domain.scarcity


def scarcest(domain: Domain, depth: int) -> int:
    """Return the highest scarcity of the domains of a level inside of a domain; -1 if there is none."""
    if len(domain.path) == depth:
        return domain.scarcity
    if depth not in domain.scarcest:
        inside = [scarcest(child, depth) for child in domain.children.values()]
        domain.scarcest[depth] = max(inside, default=-1)
    return domain.scarcest[depth]


def below(domain: Domain, depth: int) -> Iterator[Domain]:
    """Yield the domains of a level inside of a domain, itself if it is of that level, by path."""
    if len(domain.path) == depth:
        yield domain
    else:
        for _, child in sorted(domain.children.items()):
            yield from below(child, depth)
