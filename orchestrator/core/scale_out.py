"""Where the replicas go that a service lacks."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, product
from typing import NamedTuple

from orchestrator.core.changes import Create, PlaceReason
from orchestrator.core.groups import EPSILON, PARTNERS, Group, Layout, Needs
from orchestrator.core.search import Choice, Room, bound, cheapest, has_room, packs, take
from orchestrator.core.sites import Sites
from orchestrator.core.topology import Domain, Path
from stages.types import Stage

MOST_SITES = 32
"""Sites that are tried for one move, of one scarcity, at most: those with the most room."""
_CENT = 1e-6
"""Costs per hour closer than this are equal."""


class Move(NamedTuple):
    """Something that a group may get.

    Attributes:
        group: None for a new one.
        steps: How much of the needs it covers; see `_portion`.
        dearness: Its cost over that of the cheapest hardware for the same, ≥ 1.
    """

    site: Domain
    group: Group | None
    choice: Choice
    steps: int
    dearness: float

    def order(self) -> tuple[float, int, int, bool, str, tuple[str, ...]]:
        """Cheapest first, then least scarce, then most; an existing group before a new one."""
        name = self.group.name if self.group else ""
        return self.dearness, self.site.scarcity, -self.steps, self.group is None, name, self.site.path


def scale_out(layout: Layout, room: Room) -> list[Create]:
    """Place what the service lacks, as far as there is room; the layout and the room are updated.

    One move after the other until none is possible. A move depends on what is there and on nothing that
    happened before, so that placing once more finds nothing left to do.
    """
    if not layout.deficits():
        return []
    layout.settle(room.topology)
    return grow(layout, room)


def grow(layout: Layout, room: Room) -> list[Create]:
    """Place what is still lacking after `scale_out`, in room that has come since."""
    return [create for move in _Moves(layout, room) for create in _commit(layout, room, *move)]


class _Moves:
    """The moves of one service, each with its reason."""

    def __init__(self, layout: Layout, room: Room) -> None:
        self._layout = layout
        self._room = room
        self._sites = Sites(layout, room)
        self._found_for: dict[tuple[object, ...], Choice | None] = {}

    def __iter__(self) -> Iterator[tuple[Move, PlaceReason]]:
        while (needs := self._needs()) and (found := self._next(needs)):
            yield found

    def _next(self, needs: Needs) -> tuple[Move, PlaceReason] | None:
        """Return a move that does not take the last room for the first replica of encode, if there is one."""
        found = self._complete(needs) or self._grow(needs) or self._begin(needs)
        if found is None or self._leaves_encode(found[0].choice, found[0].site.path, needs):
            return found
        return self._with_encode(needs) or found

    def _needs(self) -> Needs:
        layout = self._layout
        return {stage: need for stage, need in layout.deficits().items() if layout.options[stage]}

    def _leaves_encode(self, choice: Choice, site: Path, needs: Needs) -> bool:
        """Return whether encode lacks nothing, has a replica, gets one, or surely has room for one."""
        need = needs.get(Stage.ENCODE, 0.0)
        if not need or self._layout.capacity[Stage.ENCODE] > EPSILON:
            return True
        return any(part.stage is Stage.ENCODE for part in choice.parts) or has_room(
            self._layout, self._room, site, Stage.ENCODE, min(1.0, need), choice.parts
        )

    def _with_encode(self, needs: Needs) -> tuple[Move, PlaceReason] | None:
        """Place the first replica of encode, with as much of the others as there is room for beside it."""
        alone = {Stage.ENCODE: min(1.0, needs[Stage.ENCODE])}
        found = (self._whole(n) or self._piece(n) or self._weakest(n) for n in ({**needs, **alone}, alone))
        return next(filter(None, found), None)

    def _complete(self, needs: Needs) -> tuple[Move, PlaceReason] | None:
        """Bring a group's other stages up to what its largest one makes use of."""
        layout = self._layout
        for group in sorted(self._groups(), key=lambda g: (layout.useful(g), g.name)):
            lacking = _lacking(layout, group, needs)
            if lacking and (move := self._extend([group], lacking)):
                return move, PlaceReason.COMPLETES_GROUP
        return None

    def _grow(self, needs: Needs) -> tuple[Move, PlaceReason] | None:
        """Place all needs in one site, or else as much as goes into one; without encode if it must be."""
        language = {stage: need for stage, need in needs.items() if stage in PARTNERS}
        mixed = 0 < len(language) < len(needs)
        anywhere = self._layout.levels[Stage.ENCODE] == 0
        return (
            self._whole(needs)
            or (None if mixed and anywhere else self._piece(needs))
            or (self._whole(language) or self._piece(language) if mixed else None)
            or self._lone(needs)
        )

    def _whole(self, needs: Needs) -> tuple[Move, PlaceReason] | None:
        steps = _steps(needs)
        old = self._extend(self._extensible(needs), needs, steps)
        new = self._found(needs, steps, old) if self._startable(needs) else None
        if new is None:
            return (old, PlaceReason.EXTENDS_GROUP) if old else None
        scarcer = old is not None and old.dearness <= new.dearness
        return new, PlaceReason.LESS_SCARCE if scarcer else PlaceReason.NEW_GROUP

    def _piece(self, needs: Needs) -> tuple[Move, PlaceReason] | None:
        old = self._extend(self._extensible(needs), needs)
        new = self._found(needs, 1, old) if self._startable(needs) else None
        if new is None:
            return (old, PlaceReason.EXTENDS_GROUP) if old else None
        return new, PlaceReason.NEW_GROUP

    def _lone(self, needs: Needs) -> tuple[Move, PlaceReason] | None:
        """Add one stage to groups that have its partners, if the service as a whole lags in it."""
        for stage in (*PARTNERS, Stage.ENCODE):
            lag = min(needs[stage], self._layout.lag(stage)) if stage in needs else 0.0
            if lag > EPSILON and (move := self._extend(self._extensible({stage: lag}), {stage: lag})):
                return move, PlaceReason.COMPLETES_GROUP
        return None

    def _begin(self, needs: Needs) -> tuple[Move, PlaceReason] | None:
        """Place less than one replica of the first hardware class, on a weaker one, for want of any more.

        Only where a stage has not even that much: a service that is slow is better than none. All stages
        begin together if they can, one replica each, and grow by one.
        """
        pieces = map(self._grow, _weaker(self._layout, needs))
        return self._weakest(needs) or next(filter(None, pieces), None)

    def _weakest(self, needs: Needs) -> tuple[Move, PlaceReason] | None:
        """Place one replica of each stage, at least one of a weaker class; the least that fits."""
        return next(filter(None, map(self._whole, _weaker(self._layout, needs))), None)

    def _groups(self) -> list[Group]:
        return [group for _, group in sorted(self._layout.groups.items()) if group.site is not None]

    def _extensible(self, needs: Needs) -> list[Group]:
        """Return the groups that will be of use with the needs."""
        return [group for group in self._groups() if self._of_use(group, needs)]

    def _startable(self, needs: Needs) -> bool:
        return self._layout.partners()[0] in needs and self._of_use(None, needs)

    def _of_use(self, group: Group | None, needs: Needs) -> bool:
        layout = self._layout
        return all(stage in needs or layout.has(group, stage) for stage in layout.partners())

    def _extend(self, groups: Iterable[Group], needs: Needs, least: int = 1) -> Move | None:
        """Return the best move of at least `least` steps into one of the groups."""
        self._found_for.clear()
        steps = _steps(needs)
        places = [
            (site.scarcity, -most, group.name, site.path, site, group)
            for group in groups
            for site in self._sites.of_group(group)
            if (most := self._sites.most_steps(site, needs, steps)) >= least
        ]
        places.sort(key=lambda place: place[:4])
        moves = [
            self._at(site, group, needs, least, -most) for _, most, _, _, site, group in places[:MOST_SITES]
        ]
        return min(filter(None, moves), key=Move.order, default=None)

    def _found(self, needs: Needs, least: int, rival: Move | None) -> Move | None:
        """Return the best move of at least `least` steps into a new group, if it is better than the rival."""
        self._found_for.clear()
        steps, best = _steps(needs), rival
        for scarcity, sites in enumerate(self._sites.with_room(_portion(needs, least, steps))):
            for site, most in self._roomiest(sites, needs, least):
                if (
                    best
                    and best.dearness <= 1.0
                    and best.site.scarcity <= site.scarcity
                    and best.steps >= most
                ):
                    break
                move = self._at(site, None, needs, least, most, rival=best)
                best = min(filter(None, (best, move)), key=Move.order, default=None)
            if best and best.dearness <= 1.0 and best.site.scarcity <= scarcity:
                break
        return best if best is not rival else None

    def _roomiest(self, sites: Iterable[Domain], needs: Needs, least: int) -> Iterable[tuple[Domain, int]]:
        """Return sites with upper bounds on steps, the highest first; as they come if all are asked for."""
        steps = _steps(needs)
        bounds = ((site, self._sites.most_steps(site, needs, steps)) for site in sites)
        if least == steps:
            return islice(bounds, MOST_SITES)
        return _highest(bounds, self._sites.most_anywhere(needs, steps))

    def _at(
        self,
        site: Domain,
        group: Group | None,
        needs: Needs,
        least: int,
        most: int,
        rival: Move | None = None,
    ) -> Move | None:
        """Return the move with the most steps, at least `least`, that there is room for at the site.

        None as well if it is known without packing it that it would be no better than the rival.
        """
        for tried in (False, True):
            move = self._most(site, group, needs, range(least, most + 1), tried=tried)
            # Packing can make a move of as many steps dearer, and never cheaper.
            if move and rival and least == most and rival.order() <= move.order():
                return None
            if move is None or packs(self._layout, self._room, site.path, move.choice.parts):
                return move
        raise AssertionError("what was tried fits")

    def _most(
        self, site: Domain, group: Group | None, needs: Needs, steps: range, *, tried: bool
    ) -> Move | None:
        """Return the move with the most of the steps; fewer always fit if more do."""
        found: Move | None = None
        at = len(steps) - 1
        while steps:
            part = _portion(needs, steps[at], _steps(needs))
            if choice := self._cheapest(site, part, tried=tried):
                dearness = round(choice.cost_per_h / max(bound(self._layout, self._room, part), _CENT), 6)
                found, steps = Move(site, group, choice, steps[at], dearness), steps[at + 1 :]
            else:
                steps = steps[:at]
            at = len(steps) // 2
        return found

    def _cheapest(self, site: Domain, needs: Needs, *, tried: bool) -> Choice | None:
        """Return `cheapest`. Where it only counts, sites with the same room get the same; most are alike."""
        if tried:
            return cheapest(self._layout, self._room, site.path, needs, tried=True)
        key = (self._sites.room_at(site), *needs.items())
        if key not in self._found_for:
            self._found_for[key] = cheapest(self._layout, self._room, site.path, needs, tried=False)
        return self._found_for[key]


def _highest(bounds: Iterable[tuple[Domain, int]], limit: int) -> list[tuple[Domain, int]]:
    """Return the sites with the highest bounds, none above the limit; of equals those that come first."""
    found, at_limit = [], 0
    for site, most in bounds:
        found.append((site, most))
        at_limit += most == limit
        if at_limit == MOST_SITES:
            break
    return sorted(found, key=lambda each: -each[1])[:MOST_SITES]


def _steps(needs: Needs) -> int:
    """Return into how many steps the needs can be cut: replicas of the larger of prefill and decode."""
    counted = [need for stage, need in needs.items() if stage in PARTNERS] or list(needs.values())
    return max(1, math.ceil(max(counted) - EPSILON))


def _portion(needs: Needs, steps: int, total: int) -> Needs:
    """Return that part of the needs, in whole replicas but at least one: what is left keeps its mixture."""
    if steps == total:
        return needs
    return {stage: min(need, max(1.0, need * steps // total)) for stage, need in needs.items()}


def _weaker(layout: Layout, needs: Needs) -> list[Needs]:
    """Return needs of which stages that have less than one replica get one of a weaker class; least first."""
    pieces = []
    for stage, need in needs.items():
        one = min(need, 1.0)
        begins = layout.capacity[stage] < 1.0 - EPSILON
        weights = {option.weight for option in layout.options[stage] if option.weight < one - EPSILON}
        pieces.append([*sorted(weights), one] if begins else [one])
    choices = [dict(zip(needs, choice, strict=True)) for choice in product(*pieces)]
    return sorted(choices[:-1], key=lambda choice: sum(choice.values()))


def _lacking(layout: Layout, group: Group, needs: Needs) -> Needs:
    """Return what a group lacks beside its largest stage, to the nearest replica, at most the needs."""
    top = max([layout.share(group, stage) for stage in PARTNERS])
    lacking = {}
    for stage, need in needs.items():
        if stage is Stage.ENCODE and not layout.levels[stage]:
            continue  # encode replicas serve all groups alike
        exact = top * layout.targets[stage] - group.capacity[stage]
        least = 1 if stage in PARTNERS and top > 0.0 and not layout.has(group, stage) else 0
        if (amount := min(need, max(least, math.floor(exact + 0.5)))) > EPSILON:
            lacking[stage] = amount
    return lacking


def _commit(layout: Layout, room: Room, move: Move, reason: PlaceReason) -> Sequence[Create]:
    group = move.group or layout.group(layout.new_name())
    created: list[Create] = []
    taken = take(layout, room, move.site.path, move.choice.parts)
    assert taken is not None, "the search has tried it"
    for part, node_ids in taken:
        option = part.option
        layout.add(group, part.stage, part.replicas * option.weight)
        layout.left -= part.replicas * option.tp
        if option.hardware in room.quotas:
            room.quotas[option.hardware] -= part.replicas * option.tp
        for node_id in node_ids:
            home = room.topology.domain_of(node_id)
            group.settle(home, layout.levels[part.stage])
            created.append(
                Create(
                    service=layout.policy.service,
                    stage=part.stage,
                    hardware=option.hardware,
                    tp=option.tp,
                    node_id=node_id,
                    domain=home.path if home else (),
                    group=group.name,
                    reason=reason,
                )
            )
    return created
