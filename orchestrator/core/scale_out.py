"""Where the replicas go that a service lacks."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from orchestrator.core.control_types import Create, PlaceReason
from orchestrator.core.groups import EPSILON, PARTNERS, Group, Layout, Needs
from orchestrator.core.search import Choice, Room, bound, cheapest, take
from orchestrator.core.sites import Sites
from orchestrator.core.topology import Domain
from stages.types import Stage

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
    return [create for move in _Moves(layout, room) for create in _commit(layout, room, *move)]


class _Moves:
    """The moves of one service, each with its reason."""

    def __init__(self, layout: Layout, room: Room) -> None:
        self._layout = layout
        self._room = room
        self._sites = Sites(layout, room)

    def __iter__(self) -> Iterator[tuple[Move, PlaceReason]]:
        while (needs := self._needs()) and (found := self._complete(needs) or self._grow(needs)):
            yield found

    def _needs(self) -> Needs:
        layout = self._layout
        return {stage: need for stage, need in layout.deficits().items() if layout.options[stage]}

    def _complete(self, needs: Needs) -> tuple[Move, PlaceReason] | None:
        """Bring a group's other stages up to what its largest one makes use of."""
        layout = self._layout
        for group in sorted(self._groups(), key=lambda g: (layout.useful(g), g.name)):
            lacking = _lacking(layout, group, needs)
            if lacking and (move := self._largest(self._in_group(group, lacking), lacking)):
                return move, PlaceReason.COMPLETES_GROUP
        return None

    def _grow(self, needs: Needs) -> tuple[Move, PlaceReason] | None:
        """Place all needs in one site, or else as much as goes into one; without encode if it must be."""
        language = {stage: need for stage, need in needs.items() if stage in PARTNERS}
        free_encode = self._layout.levels[Stage.ENCODE] == 0 and language != needs and language
        return (
            self._whole(needs)
            or (None if free_encode else self._piece(needs))
            or (self._whole(language) if language and language != needs else None)
            or (self._piece(language) if language and language != needs else None)
            or self._lone(needs)
        )

    def _whole(self, needs: Needs) -> tuple[Move, PlaceReason] | None:
        steps = _steps(needs)
        extending = [
            move for group in self._extensible(needs) for move in self._in_group(group, needs, steps)
        ]
        old = min(extending, key=Move.order, default=None)
        if not self._startable(needs):
            return (old, PlaceReason.EXTENDS_GROUP) if old else None
        new = self._new_whole(needs, old)
        if old and (new is None or old.order() <= new.order()):
            return old, PlaceReason.EXTENDS_GROUP
        scarcer = old is not None and new is not None and old.dearness <= new.dearness
        return (new, PlaceReason.LESS_SCARCE if scarcer else PlaceReason.NEW_GROUP) if new else None

    def _new_whole(self, needs: Needs, old: Move | None) -> Move | None:
        """Return the best new group for all needs; one that is no better than `old` may be left out."""
        steps, best = _steps(needs), old
        for site in self._sites.with_room(needs):
            if best and best.dearness <= 1.0 and site.scarcity >= best.site.scarcity:
                break
            move = self._at(site, None, needs, steps, steps)
            best = min(filter(None, (best, move)), key=Move.order, default=None)
        return best if best is not old else None

    def _piece(self, needs: Needs) -> tuple[Move, PlaceReason] | None:
        extending = [move for group in self._extensible(needs) for move in self._in_group(group, needs)]
        best = min(extending, key=Move.order, default=None)
        if self._startable(needs):
            best = self._new_piece(needs, best)
        if best is None:
            return None
        return best, PlaceReason.EXTENDS_GROUP if best.group else PlaceReason.NEW_GROUP

    def _new_piece(self, needs: Needs, best: Move | None) -> Move | None:
        steps = _steps(needs)
        for site in self._sites.with_room(_portion(needs, 1, steps)):
            cheap = best is not None and best.dearness <= 1.0
            if best and cheap and site.scarcity > best.site.scarcity:
                break
            most = min(steps, self._sites.most_steps(site, needs, steps))
            if best and cheap and site.scarcity == best.site.scarcity and most <= best.steps:
                continue
            move = self._at(site, None, needs, 1, most)
            best = min(filter(None, (best, move)), key=Move.order, default=None)
        return best

    def _lone(self, needs: Needs) -> tuple[Move, PlaceReason] | None:
        """Add one stage to groups that have its partners, if the service as a whole lags in it."""
        for stage in (*PARTNERS, Stage.ENCODE):
            lag = min(needs[stage], self._layout.lag(stage)) if stage in needs else 0.0
            if lag > EPSILON:
                alone = {stage: lag}
                moves = [m for group in self._extensible(alone) for m in self._in_group(group, alone)]
                if move := min(moves, key=Move.order, default=None):
                    return move, PlaceReason.COMPLETES_GROUP
        return None

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

    def _in_group(self, group: Group, needs: Needs, least: int = 1) -> Iterator[Move]:
        for site in self._sites.of_group(group):
            most = min(_steps(needs), self._sites.most_steps(site, needs, _steps(needs)))
            if most >= least and (move := self._at(site, group, needs, least, most)):
                yield move

    def _largest(self, moves: Iterable[Move], needs: Needs) -> Move | None:
        return min(moves, key=lambda move: (-move.steps, move.order()), default=None)

    def _at(self, site: Domain, group: Group | None, needs: Needs, least: int, most: int) -> Move | None:
        """Return the move with the most steps, at least `least`; fewer always fit if more do."""
        found: Move | None = None
        total = _steps(needs)
        tried = most
        while least <= most:
            part = _portion(needs, tried, total)
            choice = cheapest(self._layout, self._room, site.path, part)
            if choice:
                dearness = round(choice.cost_per_h / max(bound(self._layout, self._room, part), _CENT), 6)
                found, least = Move(site, group, choice, tried, dearness), tried + 1
            else:
                most = tried - 1
            tried = (least + most + 1) // 2
        return found


def _steps(needs: Needs) -> int:
    """Return into how many steps the needs can be cut: replicas of the larger of prefill and decode."""
    counted = [need for stage, need in needs.items() if stage in PARTNERS] or list(needs.values())
    return max(1, math.ceil(max(counted) - EPSILON))


def _portion(needs: Needs, steps: int, total: int) -> Needs:
    return {stage: need * steps / total for stage, need in needs.items()}


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
