"""Simulated nodes for `tercet cluster`, as the simulator's fleets have them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import kubernetes

from localcluster.nodes import FAKE
from orchestrator.core.observed import Node
from orchestrator.kube_names import ACCELERATOR_RESOURCE, HARDWARE

_TAINT = {"key": ACCELERATOR_RESOURCE, "value": "present", "effect": "NoSchedule"}
"""As GPU nodes usually have: what asks for no GPU stays away."""


def add_nodes(kubeconfig: Path, nodes: Iterable[Node], levels: Sequence[str]) -> None:
    """Create nodes; KWOK makes them ready.

    Args:
        kubeconfig: Of the cluster.
        nodes: Theirs are hardware, accelerators and domain.
        levels: Labels that the domains are written into, widest first.
    """
    with kubernetes.config.new_client_from_config(str(kubeconfig)) as client:
        core = kubernetes.client.CoreV1Api(client)
        for node in nodes:
            core.create_node(_node(node, levels), _preload_content=False)


def _node(node: Node, levels: Sequence[str]) -> Mapping[str, Any]:
    room = {"cpu": "96", "memory": "1Ti", "pods": "110", ACCELERATOR_RESOURCE: str(node.accelerators)}
    labels = {HARDWARE: node.hardware, "kubernetes.io/hostname": node.node_id}
    labels |= dict(zip(levels, node.domain, strict=False))
    return {
        "metadata": {"name": node.node_id, "labels": labels, "annotations": FAKE},
        "spec": {"taints": [_TAINT]},
        "status": {"allocatable": room, "capacity": room},
    }
