"""Fixed replicas on a fleet, placed without a scheduler."""

from collections.abc import Mapping, Sequence

from orchestrator.core.changes import Changes, Create
from orchestrator.core.observed import Node
from orchestrator.core.planned import ControlPolicy
from stages.types import Stage


def packed(control: ControlPolicy, counts: Mapping[Stage, int], nodes: Sequence[Node]) -> Changes:
    """Return the creation of so many replicas of each stage, the stages evenly mixed over the nodes.

    Args:
        control: Says how many accelerators a replica takes.
        counts: By stage; for a replica of several stages by its first.
        nodes: All of one hardware, in the order in which they fill.

    Raises:
        ValueError: They do not fit.
    """
    free = {node.node_id: node.accelerators for node in nodes}
    created = []
    for stage in _mixed(counts):
        tp = control.stages[stage].tp
        node = next((node for node in nodes if free[node.node_id] >= tp), None)
        if node is None:
            raise ValueError(f"{dict(counts)} do not fit into {sum(n.accelerators for n in nodes)}")
        free[node.node_id] -= tp
        created.append(
            Create(
                service=control.service,
                stage=stage,
                hardware=node.hardware,
                tp=tp,
                node_id=node.node_id,
                domain=node.domain,
            )
        )
    return Changes(create=tuple(created))


def _mixed(counts: Mapping[Stage, int]) -> list[Stage]:
    """Return each stage as often as it counts, spread evenly over the list."""
    places = [((index + 0.5) / count, stage) for stage, count in counts.items() for index in range(count)]
    return [stage for _, stage in sorted(places, key=lambda place: (place[0], str(place[1])))]
