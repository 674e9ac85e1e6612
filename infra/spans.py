"""How many nodes one replica spans, and whether that can be built."""

from collections.abc import Mapping
from typing import NoReturn

from infra.config import ConfigError, StackConfig
from orchestrator.kube_names import PROCESSORS
from orchestrator.policy import SERVERS, UNSPLIT, Policy
from stages.types import Stage


def spans(config: StackConfig, policy: Policy) -> Mapping[Stage, int]:
    """Return the nodes that a replica needs, of the stages for which one is not enough.

    Of hardware that no node pool of the stack has, nothing is known: one node is assumed.

    Raises:
        ConfigError: A replica that is larger than a node cannot be split evenly, or not be run so.
    """
    found = {stage: _span(config, policy, stage) for stage in Stage}
    return {stage: nodes for stage, nodes in found.items() if nodes > 1}


def _span(config: StackConfig, policy: Policy, stage: Stage) -> int:
    of_stage, controlled = policy.stages[stage], config.services[policy.service].autoscaler == "tercet"
    # Without the controller only the best class ever has replicas.
    classes = of_stage.hardware if controlled else of_stage.hardware[:1]
    held = {hardware: _largest_node(config, hardware) for hardware in classes}
    if PROCESSORS in classes or 0 in held.values() or of_stage.tp <= max(held.values()):
        return 1
    largest = max(held.values())
    needs = f"{stage} on {' or '.join(classes)} has tp {of_stage.tp} and nodes have {largest}"
    if controlled:
        # `deployments/scale` is all that it may patch, and one pod is one replica to it.
        _refuse(policy, f"{needs}: the controller scales replicas of one node; choose another autoscaler")
    if of_stage.tp % largest:
        _refuse(policy, f"{needs}: tp has to be a multiple")
    if of_stage.engine not in SERVERS:
        able = " and ".join(sorted(SERVERS - UNSPLIT))
        _refuse(policy, f"{needs}: engine {of_stage.engine} runs on one node; {able} on more")
    return of_stage.tp // largest


def _refuse(policy: Policy, why: str) -> NoReturn:
    raise ConfigError(f"`tercet:services.{policy.service}`: {why}")


def _largest_node(config: StackConfig, hardware: str) -> int:
    """Return the accelerators of the largest node with such hardware; 0 if the stack has none."""
    pools = config.node_pools.values()
    return max((pool.accelerators for pool in pools if pool.hardware == hardware), default=0)
