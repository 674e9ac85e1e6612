"""Simulated nodes for `tercet cluster`, as the simulator's fleets have them."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import kubernetes

from localcluster.nodes import simulated_node
from orchestrator.core.observed import Node
from orchestrator.kube_names import ACCELERATOR_TAINT, HARDWARE
from orchestrator.profiles import load_accelerators
from orchestrator.start_times import node_start

_AT_ONCE = 8
"""The API server takes about as many at a time; a request alone mostly waits."""


def add_nodes(
    kubeconfig: Path, nodes: Iterable[Node], levels: Sequence[str], speed_up: float | None = None
) -> None:
    """Create nodes; KWOK makes them ready.

    Args:
        kubeconfig: Of the cluster.
        nodes: Theirs are hardware, accelerators and domain.
        levels: Labels that the domains are written into, widest first.
        speed_up: How many times quicker than `data/accelerators.yaml` says; None: at once.

    Raises:
        FileError: That file is wrong.
    """
    accelerators = load_accelerators()

    def manifest(node: Node) -> dict[str, Any]:
        return simulated_node(
            node.node_id,
            gpus=node.accelerators,
            labels={HARDWARE: node.hardware, **dict(zip(levels, node.domain, strict=False))},
            annotations=node_start(accelerators[node.hardware], speed_up) if speed_up else {},
            taints=[ACCELERATOR_TAINT],
        )

    with (
        kubernetes.config.new_client_from_config(str(kubeconfig)) as client,
        ThreadPoolExecutor(_AT_ONCE) as threads,
    ):
        create = partial(kubernetes.client.CoreV1Api(client).create_node, _preload_content=False)
        list(threads.map(create, map(manifest, nodes)))
