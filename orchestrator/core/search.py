"""The cheapest hardware for one deployment group in one place: exact, by branch and bound."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

from orchestrator.core.cover import Cover
from orchestrator.core.groups import Layout, Needs
from orchestrator.core.hardware import Option
from orchestrator.core.topology import Path, Topology
from stages.types import Stage

MOST_TRIALS = 4_096
"""Combinations that are tried for one group at most; the best of them is taken then."""


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


def cheapest(layout: Layout, room: Room, site: Path, needs: Needs) -> Choice | None:
    """Return the least that covers all needs with a group at `site`, None if there is no room for it.

    Each stage may use the part of the fleet that shares its required levels with `site`.
    """
    stages, found = list(needs), []
    for stage in stages:
        fitting = _fitting(layout, room, site, stage, needs[stage])
        if not fitting:
            return None
        found.append(fitting)
    return _Search(layout, room, site, stages, found).run()


def bound(layout: Layout, room: Room, needs: Needs) -> float:
    """Return a lower bound of what the needs cost per hour: each stage alone, anywhere in the fleet.

    Hardware that the fleet lacks does not count, or nothing would ever be as cheap as the bound and every
    site would have to be looked at.
    """
    cheapest = [_fitting(layout, room, (), stage, need)[:1] for stage, need in needs.items()]
    return sum([covers[0].cost_per_h for covers in cheapest if covers])


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
            give_back(topology, taken)
            return None
        taken.append((part, nodes))
    return taken


def give_back(topology: Topology, taken: Sequence[tuple[Part, list[str]]]) -> None:
    """Undo a `take`."""
    for part, nodes in taken:
        topology.give_back(nodes, part.option.tp)


def _fitting(layout: Layout, room: Room, site: Path, stage: Stage, need: float) -> list[Cover]:
    domain = room.topology.find(site[: layout.levels[stage]])
    if domain is None:
        return []
    slots = [room.topology.slots(domain, o.hardware, o.tp) for o in layout.options[stage]]
    return [
        cover
        for cover in layout.covers(stage, need)
        if all(count <= most for count, most in zip(cover.counts, slots, strict=True))
    ]


class _Search:
    """Depth first, cheapest first, cut where what is left cannot be cheaper than the best so far."""

    def __init__(
        self,
        layout: Layout,
        room: Room,
        site: Path,
        stages: Sequence[Stage],
        found: Sequence[Sequence[Cover]],
    ) -> None:
        self._layout = layout
        self._room = room
        self._site = site
        self._stages = stages
        self._found = found
        least = [covers[0].cost_per_h for covers in found]
        self._rest = [*accumulate(reversed(least), initial=0.0)][::-1]
        self._best: Choice | None = None
        self._trials = 0

    def run(self) -> Choice | None:
        self._extend(0, 0.0, ())
        return self._best

    def _extend(self, at: int, cost: float, parts: tuple[Part, ...]) -> None:
        if at == len(self._stages):
            self._trials += 1
            if self._fits(parts):
                self._best = Choice(cost, parts)
            return
        stage = self._stages[at]
        for cover in self._found[at]:
            beaten = (
                self._best and cost + cover.cost_per_h + self._rest[at + 1] >= self._best.cost_per_h - 1e-9
            )
            if beaten or self._trials >= MOST_TRIALS:
                return
            chosen = zip(self._layout.options[stage], cover.counts, strict=True)
            own = [Part(stage, option, count) for option, count in chosen if count]
            self._extend(at + 1, cost + cover.cost_per_h, (*parts, *own))

    def _fits(self, parts: Sequence[Part]) -> bool:
        by_type: defaultdict[str, list[Part]] = defaultdict(list)
        for part in parts:
            by_type[part.option.hardware].append(part)
        return (
            self._allowed(by_type)
            and all(self._packs(hardware, own) for hardware, own in by_type.items() if len(own) > 1)
            and (all(self._exact(own) for own in by_type.values()) or self._try(parts))
        )

    def _allowed(self, by_type: Mapping[str, Sequence[Part]]) -> bool:
        amounts = {
            hardware: sum([p.replicas * p.option.tp for p in own]) for hardware, own in by_type.items()
        }
        quotas = self._room.quotas
        return sum(amounts.values()) <= self._layout.left and all(
            amount <= quotas.get(hardware, amount) for hardware, amount in amounts.items()
        )

    def _packs(self, hardware: str, parts: Sequence[Part]) -> bool:
        """Whether the parts of one type fit by count: for each level and size, what is as large or larger."""
        topology, levels = self._room.topology, self._layout.levels
        for level in {levels[p.stage] for p in parts}:
            domain = topology.find(self._site[:level])
            inside = [p for p in parts if levels[p.stage] >= level]
            for size in {p.option.tp for p in inside}:
                need = sum([p.replicas * (p.option.tp // size) for p in inside if p.option.tp >= size])
                if domain is None or need > topology.slots(domain, hardware, size):
                    return False
        return True

    def _exact(self, parts: Sequence[Part]) -> bool:
        """Whether to fit by count is to fit: one level, and sizes that divide each other."""
        sizes = sorted({part.option.tp for part in parts})
        return len({self._layout.levels[part.stage] for part in parts}) == 1 and all(
            large % small == 0 for small, large in pairwise(sizes)
        )

    def _try(self, parts: Sequence[Part]) -> bool:
        taken = take(self._layout, self._room, self._site, parts)
        if taken is None:
            return False
        give_back(self._room.topology, taken)
        return True
