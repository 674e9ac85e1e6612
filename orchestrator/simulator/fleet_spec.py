"""Nodes from a few words: `a100=16x8,l40s=8x4`."""

import re
from collections.abc import Iterable, Mapping

from orchestrator.core.observed import Node
from orchestrator.core.planned import ControlPolicy
from stages.types import Stage

NODES_PER_RACK = 4
CHILDREN_PER_DOMAIN = 4
"""Racks to a block, blocks to a zone, and so on, for as many levels as the policy names."""
ACCELERATORS_PER_NODE = 8
_PART = re.compile(r"^([a-z0-9][a-z0-9-]*)=(\d+)x(\d+)$")


class FleetError(ValueError):
    """A fleet that cannot be understood; its text says what would be."""


def parse_fleet(text: str, levels: tuple[str, ...]) -> tuple[Node, ...]:
    """Return the nodes of `HARDWARE=NODESxACCELERATORS`, several with commas.

    Nodes fill racks of four, each of one hardware; four racks of each hardware fill a block, four blocks
    what is above it, and so on.

    Args:
        text: For example `h100=8x8,l40s=16x4`.
        levels: Topology levels of the policy, widest first.

    Raises:
        FleetError: It is not of that form.
    """
    nodes: list[Node] = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        match = _PART.match(part)
        if not match or int(match[3]) < 1:
            raise FleetError(f"{part!r} is not HARDWARE=NODESxACCELERATORS, such as a100=16x8")
        hardware, count, each = match[1], int(match[2]), int(match[3])
        nodes += [_node(hardware, index, each, levels) for index in range(count)]
    if not nodes:
        raise FleetError("the fleet has no nodes; name some, such as a100=16x8")
    return tuple(nodes)


def default_fleet(controls: Iterable[ControlPolicy], levels: tuple[str, ...]) -> tuple[Node, ...]:
    """Return a fleet with room for the policies' maxima on each stage's first hardware."""
    accelerators: dict[str, int] = {}
    for bounds in [control.stages[stage] for control in controls for stage in Stage]:
        name = bounds.hardware[0]
        accelerators[name] = accelerators.get(name, 0) + bounds.max * bounds.tp
    return parse_fleet(_spec(accelerators), levels)


def _spec(accelerators: Mapping[str, int]) -> str:
    each = ACCELERATORS_PER_NODE
    return ",".join(f"{name}={-(-count // each)}x{each}" for name, count in sorted(accelerators.items()))


def _node(hardware: str, index: int, accelerators: int, levels: tuple[str, ...]) -> Node:
    return Node(
        node_id=f"{hardware}-{index:05d}",
        hardware=hardware,
        accelerators=accelerators,
        domain=_domain(hardware, index, len(levels)),
    )


def _domain(hardware: str, index: int, levels: int) -> tuple[str, ...]:
    """Return the node's place: its own rack of one hardware, in blocks and zones that all hardware shares."""
    ordinals = []
    at = index // NODES_PER_RACK
    for _ in range(levels):
        ordinals.append(at)
        at //= CHILDREN_PER_DOMAIN
    wider = [f"{depth}-{ordinal}" for depth, ordinal in enumerate(reversed(ordinals[1:]))]
    return (*wider, f"{hardware}-{ordinals[0]}") if levels else ()
