"""Simulated nodes with accelerators, as KWOK keeps them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import kubernetes

from orchestrator.core.observed import Node
from orchestrator.kube_names import ACCELERATOR_RESOURCE, HARDWARE

_TAINT = {"key": ACCELERATOR_RESOURCE, "value": "present", "effect": "NoSchedule"}
"""As GPU nodes usually have: what asks for no GPU stays away."""


def add_nodes(kubeconfig: Path, nodes: Iterable[Node], levels: Sequence[str]) -> None:
    """Create nodes; they become ready at once, or when their annotation says.

    Args:
        kubeconfig: Of the cluster.
        nodes: As the simulator's fleets have them.
        levels: Labels that their domains are written into, widest first.
    """
    with kubernetes.config.new_client_from_config(str(kubeconfig)) as client:
        core = kubernetes.client.CoreV1Api(client)
        for node in nodes:
            core.create_node(node_object(node, levels), _preload_content=False)


def node_object(node: Node, levels: Sequence[str]) -> Mapping[str, Any]:
    """Return the Kubernetes object of a simulated node."""
    amounts = {"cpu": "128", "memory": "1Ti", "pods": "110", ACCELERATOR_RESOURCE: str(node.accelerators)}
    return {
        "metadata": {
            "name": node.node_id,
            "labels": {
                HARDWARE: node.hardware,
                "kubernetes.io/hostname": node.node_id,
                "type": "kwok",
                **dict(zip(levels, node.domain, strict=False)),
            },
            "annotations": {"kwok.x-k8s.io/node": "fake"},
        },
        "spec": {"taints": [_TAINT]},
        "status": {"allocatable": amounts, "capacity": amounts},
    }
