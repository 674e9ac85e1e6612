"""Simulated GPU nodes: KWOK plays their kubelets."""

from collections.abc import Mapping, Sequence
from typing import Any

FAKE = {"kwok.x-k8s.io/node": "fake"}
"""Annotation by which KWOK knows the nodes that it is to play."""
COLD_START = "tercet.dev/cold-start"
"""Annotation of a pod: how long it takes from bound to ready, a Go duration such as `45s`."""
PROVISIONING = "tercet.dev/provisioning"
"""Annotation of a node: how long it takes from created to ready, a Go duration."""
FAIL = "tercet.dev/fail"
"""Annotation of a pod or node: fail, with the value as the reason."""


def simulated_node(
    name: str,
    *,
    gpus: int = 8,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    taints: Sequence[Mapping[str, str]] = (),
) -> dict[str, Any]:
    """Return the manifest of a node.

    Args:
        name: Its name, and its hostname.
        gpus: Allocatable `nvidia.com/gpu`.
        labels: Beside the hostname, such as those of topology.
        annotations: Beside KWOK's own, such as `PROVISIONING`.
        taints: What keeps pods away that do not tolerate it.
    """
    room = {"cpu": "96", "memory": "1Ti", "pods": "110", "nvidia.com/gpu": str(gpus)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, **(labels or {})},
            "annotations": {**FAKE, **(annotations or {})},
        },
        "spec": {"taints": list(taints)},
        "status": {"allocatable": room, "capacity": room},
    }
