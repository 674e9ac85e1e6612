"""What a stack asks for in vain, found before anything is created."""

from collections.abc import Iterable, Iterator, Sequence

from infra.config import ConfigError
from infra.fleet import borne_levels, fleet_of
from infra.objects.nodes import NodePoolArgs
from infra.objects.service import ModelServiceArgs
from infra.room import Least, too_few
from infra.stack import StackArgs
from orchestrator.control_policy import Hardware, control_policy, policy_profile, refusals
from orchestrator.kube_names import PROCESSORS
from orchestrator.policy import PolicyError, load_policy
from orchestrator.simulator.fleet_check import too_far_apart, too_little_room
from stages.types import Stage

_APART = (
    "a node that Karpenter would make is known to be near no other below the zone, so name a wider level in "
    "topology.edges, larger nodes, a smaller tp, or what the pool's nodes share in its `labels`"
)


def check_feasible(stack: StackArgs, hardware: Hardware) -> None:
    """Return if every service can run on the declared pools; without pools, on its hardware at all.

    Raises:
        ConfigError: Lists everything that cannot be, with the numbers and what to do.
    """
    found = list(infeasibilities(stack, hardware))
    if found:
        raise ConfigError("\n".join(("the stack cannot work, nothing was changed:", *found)))


def infeasibilities(stack: StackArgs, hardware: Hardware) -> Iterator[str]:
    """Yield a text for each thing that cannot be."""
    usable = []
    for service in stack.services:
        problems = list(_refused(service, hardware))
        problems += _unhoused(service, stack.node_pools) if stack.node_pools else []
        yield from problems
        if not problems:
            usable.append(service)
    yield from _levels_differ(stack.services)
    if stack.node_pools:
        for service in usable:
            yield from _apart(service, stack.node_pools, hardware)
        least = [each for service in usable for each in _least(service)]
        yield from too_few(least, fleet_of(stack.node_pools, ()))


def _scaled(service: ModelServiceArgs) -> bool:
    return service.config.autoscaler == "tercet"


def _key(service: ModelServiceArgs, *more: str) -> str:
    return f"`tercet:{'.'.join(('services', service.policy.service, *more))}`"


def _classes(service: ModelServiceArgs, stage: Stage) -> tuple[str, ...]:
    """Return the hardware that a stage's replicas may be on; without an autoscaler the best alone."""
    hardware = service.policy.stages[stage].hardware
    return hardware if _scaled(service) else hardware[:1]


def _stages(service: ModelServiceArgs) -> list[Stage]:
    """Return the stages that need a declared pool: any node has processors, if Kubernetes alone places."""
    return [stage for stage in Stage if _scaled(service) or _classes(service, stage) != (PROCESSORS,)]


def _refused(service: ModelServiceArgs, hardware: Hardware) -> Iterator[str]:
    """Yield what the model cannot do on its hardware. The controller needs to know the model."""
    known = _scaled(service)
    if service.policy.encoders_called and service.config.autoscaler in ("hpa", "keda"):
        why = "goes by what replicas are given, and SGLang's encoders get nothing: choose tercet or none"
        yield f"{_key(service, 'autoscaler')}: {service.config.autoscaler} {why}"
    try:
        load_policy(
            service.file, lambda policy: refusals(policy, service.file, hardware, must_be_known=known)
        )
    except PolicyError as error:
        yield f"{_key(service, 'policy')}: {error}"


def _unhoused(service: ModelServiceArgs, pools: Sequence[NodePoolArgs]) -> Iterator[str]:
    """Yield stages that no pool has hardware for, and levels that no pool bears."""
    for stage in _stages(service):
        classes, there = _classes(service, stage), {pool.config.hardware for pool in pools}
        if not there.intersection(classes):
            key, runs_on = _key(service), f"{stage} runs on {' or '.join(classes)}"
            have = ", ".join(sorted(there))
            yield f"{key}: {runs_on}, and the node pools have {have}: add a pool, or change stages.{stage}"
    if _scaled(service):
        yield from _unborne(service, pools)


def _unborne(service: ModelServiceArgs, pools: Sequence[NodePoolArgs]) -> Iterator[str]:
    borne = set[str]().union(*[borne_levels(pool) for pool in pools])
    for level in service.policy.topology.levels:
        if level not in borne:
            yield (
                f"{_key(service)}: nodes of no pool bear the topology level {level}: give it in a pool's "
                f"`spread` or `labels.labels`, name it in the pool's `levels` if its nodes have the label "
                f"from elsewhere, or take it out of topology.levels"
            )


def _levels_differ(services: Iterable[ModelServiceArgs]) -> Iterator[str]:
    """Yield that one controller would have to follow several lists of topology levels."""
    named = {each.policy.topology.levels: each.policy.service for each in services if _scaled(each)}
    if len(named) > 1:
        each = "; ".join(f"{service}: {', '.join(levels) or 'none'}" for levels, service in named.items())
        yield f"`tercet:services`: services of one controller share topology.levels, and these differ: {each}"


def _apart(service: ModelServiceArgs, pools: Sequence[NodePoolArgs], hardware: Hardware) -> Iterator[str]:
    """Yield edges of which no domain has hardware for both stages."""
    if not _scaled(service):
        return
    policy = service.policy
    profile = policy_profile(policy, service.file, hardware.accelerators)
    control = control_policy(policy, profile, hardware.accelerators, hardware.links)
    nodes = fleet_of(pools, policy.topology.levels)
    problems = list(too_far_apart(control, nodes))
    if not problems and any(pool.config.karpenter for pool in pools):
        problems = [f"{problem}: {_APART}" for problem in too_little_room([control], nodes)]
    yield from (f"{_key(service)}: {problem}" for problem in problems)


def _least(service: ModelServiceArgs) -> Iterator[Least]:
    """Yield what every stage has at least; a replica that spans nodes counts as one on each."""
    for stage in _stages(service):
        of_stage, nodes = service.policy.stages[stage], service.nodes.get(stage, 1)
        if of_stage.min:
            yield Least(
                stage=f"{service.policy.service} {stage}",
                replicas=of_stage.min * nodes,
                tp=of_stage.tp // nodes,
                classes=frozenset(_classes(service, stage)),
            )
