"""The cheapest hardware for one deployment group in one place: exact, by branch and bound."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

from orchestrator.core.cover import Cover
from orchestrator.core.groups import Layout, Needs
from orchestrator.core.hardware import Option
from orchestrator.core.topology import Domain, Path, Topology
from stages.types import Stage

MOST_VISITS = 1_000
"""Combinations, whole or begun, that are looked at for one group; the best of them is taken then."""


class Part(NamedTuple):
    """Replicas of one stage on one hardware class."""

    stage: Stage
    option: Option
    replicas: int


class Choice(NamedTuple):
    """What a group gets."""

    cost_per_h: float
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Room:
    """What may still be used.

    Attributes:
        quotas: Accelerators left by hardware type; no limit for others. Deducted from like `topology`.
    """

    topology: Topology
    quotas: dict[str, int]


def cheapest(layout: Layout, room: Room, site: Path, needs: Needs, *, tried: bool) -> Choice | None:
    """Return the least that covers all needs with a group at `site`, None if there is no room for it.

    Each stage may use the part of the fleet that shares its required levels with `site`.

    Args:
        layout: The service.
        room: What is free.
        site: Where the group is or would be.
        needs: What it shall get.
        tried: Whether each combination is tried on the nodes. If not they are counted, and `packs` has
            to say whether what is returned fits; it does where stages share a level.
    """
    found = []
    hardest = sorted(
        needs.items(), key=lambda item: (-layout.levels[item[0]], -item[1] * layout.size(item[0]))
    )
    for stage, need in hardest:
        fitting = _fitting(layout, room, site, stage, need)
        if not fitting:
            return None
        found.append(fitting)
    return _Search(layout, room, site, hardest, found, tried=tried).run()


def bound(layout: Layout, room: Room, needs: Needs) -> float:
    """Return a lower bound of what the needs cost per hour: each stage alone, anywhere in the fleet.

    Hardware that the fleet lacks does not count, or nothing would ever be as cheap as the bound and every
    site would have to be looked at.
    """
    cheapest = [_fitting(layout, room, (), stage, need)[:1] for stage, need in needs.items()]
    return sum([covers[0].cost_per_h for covers in cheapest if covers])


def has_room(
    layout: Layout, room: Room, site: Path, stage: Stage, need: float, parts: Sequence[Part]
) -> bool:
    """Return whether a stage can surely have a need in a group at `site` once parts have been taken.

    What counts is whether it can wherever the parts come to lie: each takes at most so many slots.
    """
    domain = room.topology.find(site[: layout.levels[stage]])
    for cover in _fitting(layout, room, site, stage, need):
        added = [Part(stage, o, n) for o, n in zip(layout.options[stage], cover.counts, strict=True) if n]
        if _allowed(layout, room, (*parts, *added)) and all(
            domain and part.replicas + _slots_taken(parts, part.option) <= _slots(room, domain, part.option)
            for part in added
        ):
            return True
    return False


def take(
    layout: Layout, room: Room, site: Path, parts: Sequence[Part]
) -> list[tuple[Part, list[str]]] | None:
    """Deduct the parts from the topology; return their nodes, or None and deduct nothing.

    Where all stages share a level, largest first is exact for sizes that divide each other. For stages
    of different levels, narrowest first is tried as well.
    """
    by_size = sorted(parts, key=lambda p: (-p.option.tp, -layout.levels[p.stage]))
    by_level = sorted(parts, key=lambda p: (-layout.levels[p.stage], -p.option.tp))
    for order in (by_size, by_level):
        taken = _take(layout, room.topology, site, order)
        if taken is not None:
            return taken
        if by_size == by_level:
            break
    return None


def _take(
    layout: Layout, topology: Topology, site: Path, parts: Sequence[Part]
) -> list[tuple[Part, list[str]]] | None:
    taken: list[tuple[Part, list[str]]] = []
    for part in parts:
        domain = topology.find(site[: layout.levels[part.stage]])
        option = part.option
        nodes = topology.take(domain, option.hardware, option.tp, part.replicas) if domain else None
        if nodes is None:
            _give_back(topology, taken)
            return None
        taken.append((part, nodes))
    return taken


def packs(layout: Layout, room: Room, site: Path, parts: Sequence[Part]) -> bool:
    """Return whether parts that fit by count fit."""
    if _surely_packs(layout, parts):
        return True
    taken = take(layout, room, site, parts)
    if taken is not None:
        _give_back(room.topology, taken)
    return taken is not None


def _give_back(topology: Topology, taken: Sequence[tuple[Part, list[str]]]) -> None:
    """Undo a `take`."""
    for part, nodes in taken:
        topology.give_back(nodes, part.option.tp)


def _fitting(layout: Layout, room: Room, site: Path, stage: Stage, need: float) -> list[Cover]:
    domain = room.topology.find(site[: layout.levels[stage]])
    if domain is None:
        return []
    slots = [_slots(room, domain, option) for option in layout.options[stage]]
    return [
        cover
        for cover in layout.covers(stage, need)
        if all(count <= most for count, most in zip(cover.counts, slots, strict=True))
    ]


def _slots(room: Room, domain: Domain, option: Option) -> int:
    return room.topology.slots(domain, option.hardware, option.tp)


def _slots_taken(parts: Sequence[Part], option: Option) -> int:
    """Return of how many slots of an option parts may leave nothing, at most."""
    alike = [part for part in parts if part.option.hardware == option.hardware]
    return sum([part.replicas * math.ceil(part.option.tp / option.tp) for part in alike])


def _allowed(layout: Layout, room: Room, parts: Sequence[Part]) -> bool:
    """Return whether parts are within the service's budget and the quotas."""
    spent: dict[str, int] = {}
    for part in parts:
        hardware = part.option.hardware
        spent[hardware] = spent.get(hardware, 0) + part.replicas * part.option.tp
    return sum(spent.values()) <= layout.left and all(
        amount <= room.quotas.get(hardware, amount) for hardware, amount in spent.items()
    )


class _Search:
    """Depth first, cheapest first; cut where the rest cannot be cheaper than the best so far, or has no room.

    Args:
        found: The covers of each stage that there is room for without the others.
        tried: Whether to try to pack each combination, not only to count.
    """

    def __init__(
        self,
        layout: Layout,
        room: Room,
        site: Path,
        needs: Sequence[tuple[Stage, float]],
        found: Sequence[Sequence[Cover]],
        *,
        tried: bool,
    ) -> None:
        self._layout = layout
        self._room = room
        self._site = site
        self._needs = needs
        self._found = found
        least = [covers[0].cost_per_h for covers in found]
        self._rest = [*accumulate(reversed(least), initial=0.0)][::-1]
        self._tried = tried
        self._best: Choice | None = None
        self._visits = 0

    def run(self) -> Choice | None:
        self._extend(0, 0.0, ())
        return self._best

    def _extend(self, at: int, cost: float, parts: tuple[Part, ...]) -> None:
        self._visits += 1
        if at == len(self._needs):
            if not self._tried or packs(self._layout, self._room, self._site, parts):
                self._best = Choice(cost, parts)
            return
        left = [self._left(stage, parts) for stage, _ in self._needs[at:]]
        if not all(self._enough(at + i, slots) for i, slots in enumerate(left)):
            return
        stage = self._needs[at][0]
        for cover in self._found[at]:
            total = cost + cover.cost_per_h
            if self._visits >= MOST_VISITS or (
                self._best and total + self._rest[at + 1] >= self._best.cost_per_h - 1e-9
            ):
                return
            if all(count <= most for count, most in zip(cover.counts, left[0], strict=True)):
                chosen = zip(self._layout.options[stage], cover.counts, strict=True)
                more = (*parts, *[Part(stage, option, count) for option, count in chosen if count])
                if self._counts(more):
                    self._extend(at + 1, total, more)

    def _left(self, stage: Stage, parts: Sequence[Part]) -> list[int]:
        """Return how many replicas of each option may still fit beside the parts: a bound from above."""
        levels = self._layout.levels
        domain = self._room.topology.find(self._site[: levels[stage]])
        if domain is None:
            return [0] * len(self._layout.options[stage])
        inside = [part for part in parts if levels[part.stage] >= levels[stage]]
        return [self._left_of(option, domain, inside) for option in self._layout.options[stage]]

    def _left_of(self, option: Option, domain: Domain, inside: Sequence[Part]) -> int:
        """Count in slots of the option's size and of each smaller one that takes room.

        What is smaller may lie where the option would not fit, so it only counts in slots of its own size.
        """
        own = [part for part in inside if part.option.hardware == option.hardware]
        left = []
        for size in {option.tp, *[part.option.tp for part in own if part.option.tp < option.tp]}:
            taken = sum([part.replicas * (part.option.tp // size) for part in own])
            slots = self._room.topology.slots(domain, option.hardware, size)
            left.append((slots - taken) // (option.tp // size))
        return max(0, min(left))

    def _enough(self, at: int, slots: Sequence[int]) -> bool:
        stage, need = self._needs[at]
        options = self._layout.options[stage]
        return sum([o.weight * n for o, n in zip(options, slots, strict=True)]) > need - 1e-6

    def _counts(self, parts: Sequence[Part]) -> bool:
        """Whether the parts are allowed and, counting what is as large or larger at each level, fit."""
        if not _allowed(self._layout, self._room, parts):
            return False
        topology, levels = self._room.topology, self._layout.levels
        for part in parts:
            size, level, hardware = part.option.tp, levels[part.stage], part.option.hardware
            beside = [p for p in parts if p.option.hardware == hardware and p.option.tp >= size]
            for inner in {levels[p.stage] for p in beside if levels[p.stage] <= level} | {level}:
                need = sum([p.replicas * (p.option.tp // size) for p in beside if levels[p.stage] >= inner])
                domain = topology.find(self._site[:inner])
                if domain is None or need > topology.slots(domain, hardware, size):
                    return False
        return True


def _surely_packs(layout: Layout, parts: Sequence[Part]) -> bool:
    """Whether to fit by count is to fit: on each type one level, and sizes that divide each other."""
    by_type: defaultdict[str, list[Part]] = defaultdict(list)
    for part in parts:
        by_type[part.option.hardware].append(part)
    return all(
        len({layout.levels[part.stage] for part in own}) == 1
        and all(large % small == 0 for small, large in pairwise(sorted({part.option.tp for part in own})))
        for own in by_type.values()
    )
