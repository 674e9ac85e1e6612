"""Whether a fleet can hold services at all: their hardware is there, near enough to each other, enough."""

from collections import Counter
from collections.abc import Iterator, Sequence

from orchestrator.core.changes import PlaceReason
from orchestrator.core.observed import Node, Snapshot
from orchestrator.core.planned import ControlPolicy, ScalePlan, ScaleReason, StagePlan
from orchestrator.core.scheduler import place
from orchestrator.simulator.fleet_spec import FleetError
from stages.types import Stage


def check_fleet(controls: Sequence[ControlPolicy], nodes: tuple[Node, ...]) -> None:
    """Return if the fleet can hold the services, each with `min` replicas of every stage and one at least.

    Raises:
        FleetError: A stage has no hardware there, no domain of a required level has hardware of both its
            stages, or there is too little room.
    """
    for control in controls:
        _check_hardware(control, nodes)
    if problems := [*too_little_room(controls, nodes)]:
        raise FleetError(
            f"the fleet is too small: {'; '.join(problems)}. Name more with --fleet, or leave it out for "
            f"room for every max"
        )


def _check_hardware(control: ControlPolicy, nodes: tuple[Node, ...]) -> None:
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


def too_little_room(controls: Sequence[ControlPolicy], nodes: Sequence[Node]) -> Iterator[str]:
    """Yield, for each stage that gets fewer replicas than the least it may have, what is missing.

    `place` itself is asked, on the empty fleet. Of weaker hardware as many replicas will do.
    """
    least = {control.service: _least(control) for control in controls}
    policies = {control.service: control for control in controls}
    found = place(least, policies, Snapshot(services={}, nodes=tuple(nodes)))
    placed = Counter((create.service, create.stage) for create in found.create if create.node_id)
    reasons = {(create.service, create.stage): create.reason for create in found.unplaced}
    for (service, stage), reason in sorted(reasons.items()):
        wanted, got = least[service].stages[stage].replicas, placed[service, stage]
        if got < wanted:
            yield _no_room(policies[service], stage, wanted, got, reason)


def _least(control: ControlPolicy) -> ScalePlan:
    counts = {stage: max(1, bounds.min) for stage, bounds in control.stages.items()}
    return ScalePlan(
        stages={
            stage: StagePlan(replicas=count, need=float(count), reason=ScaleReason.BOUND)
            for stage, count in counts.items()
        }
    )


def _no_room(control: ControlPolicy, stage: Stage, wanted: int, got: int, reason: PlaceReason) -> str:
    bounds = control.stages[stage]
    return (
        f"of {wanted} {stage} replicas, the least of {control.service}, each on {bounds.tp} "
        f"{' or '.join(bounds.hardware)} of one node, there is room for {got} ({reason})"
    )


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
