"""Where a group of a service could be, without asking every domain of the fleet."""

from collections.abc import Iterable, Iterator

from orchestrator.core.groups import Group, Layout, Needs
from orchestrator.core.search import Room
from orchestrator.core.topology import Domain, below, scarcest
from stages.types import Stage


class Sites:
    """Domains of the level that a service's groups share.

    Capacity is counted with each stage by itself, so it is an upper bound: what passes may still have
    no room for all stages together.
    """

    def __init__(self, layout: Layout, room: Room) -> None:
        self._layout = layout
        self._topology = room.topology
        used = {option.hardware for options in layout.options.values() for option in options}
        self._types = tuple(sorted(used))
        self._asked = sorted(
            {
                (level, option.hardware, option.tp)
                for options in layout.options.values()
                for option in options
                for level in layout.levels.values()
            }
        )

    def of_group(self, group: Group) -> Iterable[Domain]:
        """Return where a group may grow: one domain, unless its replicas do not fix it yet."""
        domain = None if group.site is None else self._topology.find(group.site)
        return below(domain, self._layout.depth) if domain else ()

    def with_room(self, needs: Needs) -> Iterator[Iterator[Domain]]:
        """Yield the domains that may have room for all needs by scarcity, the least scarce first.

        Of one scarcity, the fullest first at each level on the way down: wide domains that are empty
        stay so.
        """
        for scarcity in range(self._topology.depth + 1):
            yield self._walk(self._topology.root, needs, scarcity)

    def room_at(self, site: Domain) -> tuple[int, ...]:
        """Return the free slots that a group at the site could ask for, at each level of its stages."""
        around = {level: self._topology.find(site.path[:level]) for level, _, _ in self._asked}
        slots = self._topology.slots
        return tuple(
            [
                slots(domain, hardware, size) if (domain := around[level]) else -1
                for level, hardware, size in self._asked
            ]
        )

    def most_anywhere(self, needs: Needs, steps: int) -> int:
        """Return an upper bound on the steps out of `steps` that fit into any site."""
        return self.most_steps(self._topology.root, needs, steps)

    def most_steps(self, site: Domain, needs: Needs, steps: int) -> int:
        """Return an upper bound on the steps out of `steps` that fit."""
        most = min([int(steps * self._capacity(site, s) / need + 1e-6) for s, need in needs.items()])
        return min(most, steps)

    def _walk(self, domain: Domain, needs: Needs, scarcity: int) -> Iterator[Domain]:
        if not domain.scarcity <= scarcity <= scarcest(domain, self._layout.depth):
            return
        if not self._may_hold(domain, needs):
            return
        if len(domain.path) == self._layout.depth:
            yield domain
            return
        for child in self._topology.fullest_first(domain, self._types, self._least(domain, needs)):
            yield from self._walk(child, needs, scarcity)

    def _may_hold(self, domain: Domain, needs: Needs) -> bool:
        return all(self._capacity(domain, stage) > need - 1e-6 for stage, need in needs.items())

    def _least(self, domain: Domain, needs: Needs) -> int:
        """Return the accelerators without which no domain of the next level may hold all needs."""
        inside = [stage for stage in needs if self._layout.levels[stage] > len(domain.path)]
        return max([min([o.tp for o in self._layout.options[stage]]) for stage in inside], default=0)

    def _capacity(self, domain: Domain, stage: Stage) -> float:
        """Return the most capacity for a stage of a group that is in the domain or in one inside of it."""
        level, topology = self._layout.levels[stage], self._topology
        within = topology.find(domain.path[:level]) or domain
        return sum(
            [o.weight * topology.peak(within, level, o.hardware, o.tp) for o in self._layout.options[stage]]
        )
