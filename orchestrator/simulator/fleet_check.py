"""Whether a fleet can hold a service at all: its hardware is there, and near enough to each other."""

from collections.abc import Iterator, Sequence

from orchestrator.core.observed import Node
from orchestrator.core.planned import ControlPolicy
from orchestrator.simulator.fleet_spec import FleetError
from stages.types import Stage


def check_fleet(control: ControlPolicy, nodes: tuple[Node, ...]) -> None:
    """Return if every stage has hardware in the fleet, at the topology levels that the stages have to share.

    Raises:
        FleetError: A stage has none, or no domain of a required level has hardware of both its stages.
    """
    there = {node.hardware for node in nodes}
    for stage in Stage:
        wanted = control.stages[stage].hardware
        if not there & set(wanted):
            raise FleetError(
                f"the fleet has {', '.join(sorted(there))}; {stage} runs on {', '.join(wanted)}: "
                f"add some with --fleet, such as {wanted[0]}=8x8"
            )
    for apart in too_far_apart(control, nodes):
        raise FleetError(f"{control.service}: {apart}")


def too_far_apart(control: ControlPolicy, nodes: Sequence[Node]) -> Iterator[str]:
    """Yield, for each edge whose stages no domain of the required level has hardware for, what to do."""
    edges = control.edges
    for stages, required in (
        ((Stage.ENCODE, Stage.PREFILL), edges.encode_prefill),
        ((Stage.PREFILL, Stage.DECODE), edges.prefill_decode),
    ):
        shared = _nearest_shared(control, nodes, stages)
        if shared < required:
            yield _apart(control, stages, required, shared)


def _apart(control: ControlPolicy, stages: tuple[Stage, Stage], required: int, shared: int) -> str:
    levels, (source, target) = control.levels, stages
    runs_on = " and ".join(f"{stage} on {', '.join(control.stages[stage].hardware)}" for stage in stages)
    have = f"are together in domains of {', '.join(levels[:shared])}" if shared else "share no domain at all"
    return (
        f"{source}-{target} requires level {levels[required - 1]}, of which no domain "
        f"in the fleet has {runs_on}; they {have}: name hardware or a fleet that share the level, "
        f"or a wider level in topology.edges"
    )


def _nearest_shared(control: ControlPolicy, nodes: Sequence[Node], stages: tuple[Stage, Stage]) -> int:
    """Return the most leading topology levels of which one domain has hardware for both stages."""
    source, target = (
        [node.domain for node in nodes if node.hardware in control.stages[stage].hardware] for stage in stages
    )
    for depth in range(len(control.levels), 0, -1):
        ends = [{domain[:depth] for domain in side if len(domain) >= depth} for side in (source, target)]
        if ends[0] & ends[1]:
            return depth
    return 0
