"""Whether the least replicas of all services fit on the node pools together."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import gcd

from orchestrator.core.observed import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Least:
    """The least replicas of one stage.

    Attributes:
        stage: For messages.
        tp: Accelerators of each, all on one node.
        classes: Hardware that they may be on.
    """

    stage: str
    replicas: int
    tp: int
    classes: frozenset[str]


def too_few(wanted: Sequence[Least], nodes: Sequence[Node]) -> Iterator[str]:
    """Yield the smallest sets of hardware that what has to be on them does not fit on.

    By Hall's theorem, all fit if each union of `classes` has enough accelerators for those that may be on
    nothing else.
    """
    short: list[frozenset[str]] = []
    for union in sorted(_unions(wanted), key=lambda union: (len(union), sorted(union))):
        within = [each for each in wanted if each.classes <= union]
        need, have = sum(each.replicas * each.tp for each in within), _room(union, within, nodes)
        if need > have and not any(smaller < union for smaller in short):
            short.append(union)
            yield _told(union, within, need, have)


def _unions(wanted: Iterable[Least]) -> set[frozenset[str]]:
    unions: set[frozenset[str]] = set()
    for each in wanted:
        unions |= {each.classes, *(union | each.classes for union in unions)}
    return unions


def _room(classes: frozenset[str], within: Iterable[Least], nodes: Iterable[Node]) -> int:
    """Return the accelerators that replicas of these sizes can use at most."""
    size = gcd(*[each.tp for each in within])
    return sum(node.accelerators // size * size for node in nodes if node.hardware in classes)


def _told(classes: frozenset[str], within: Iterable[Least], need: int, have: int) -> str:
    parts = ", ".join(f"{each.stage} {each.replicas} × {each.tp}" for each in within)
    return (
        f"`tercet:node_pools`: least replicas take {need} {' or '.join(sorted(classes))} ({parts}), and the "
        f"pools have room for {have}: add nodes, or lower stages.*.min"
    )
