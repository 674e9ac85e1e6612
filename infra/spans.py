"""How many nodes one replica spans, and whether that can be built."""

from collections.abc import Mapping

from infra.config import ConfigError, StackConfig
from infra.objects.engines import SERVERS
from infra.objects.names import PROCESSORS
from orchestrator.policy import Policy
from stages.types import Stage


def spans(config: StackConfig, policy: Policy) -> Mapping[tuple[Stage, str], int]:
    """Return the nodes that a replica needs, by stage and hardware class, where one node is not enough.

    Of hardware that no node pool of the stack has, nothing is known: one node is assumed.

    Raises:
        ConfigError: A replica that is larger than a node cannot be split evenly, or not be run so.
    """
    found = {}
    for stage in Stage:
        for hardware in policy.stages[stage].hardware:
            tp, held = policy.stages[stage].tp, _largest_node(config, hardware)
            if hardware != PROCESSORS and held and tp > held:
                _check(config, policy, stage, hardware, held)
                found[stage, hardware] = tp // held
    return found


def _largest_node(config: StackConfig, hardware: str) -> int:
    """Return the accelerators of the largest node with such hardware; 0 if the stack has none."""
    pools = config.node_pools.values()
    return max((pool.accelerators for pool in pools if pool.hardware == hardware), default=0)


def _check(config: StackConfig, policy: Policy, stage: Stage, hardware: str, held: int) -> None:
    of_stage, name = policy.stages[stage], policy.service
    needs = (
        f"`tercet:services.{name}`: {stage.value} on {hardware} has tp {of_stage.tp} and nodes have {held}"
    )
    if of_stage.tp % held:
        raise ConfigError(f"{needs}: tp has to be a multiple")
    if of_stage.engine not in SERVERS:
        raise ConfigError(
            f"{needs}: engine {of_stage.engine} runs on one node; {' and '.join(SERVERS)} on more"
        )
    if config.services[name].autoscaler == "tercet":
        # `deployments/scale` is all that it may patch, and one pod is one replica to it.
        raise ConfigError(f"{needs}: the controller scales replicas of one node; choose another autoscaler")
