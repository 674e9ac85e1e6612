"""Simulated GPU nodes: KWOK plays their kubelets."""

from collections.abc import Iterator, Mapping
from typing import Any

FAKE = {"kwok.x-k8s.io/node": "fake"}
"""Annotation by which KWOK knows the nodes that it is to play."""
COLD_START = "tercet.dev/cold-start"
"""Annotation of a pod: how long it takes from bound to ready, a Go duration such as `45s`."""
PROVISIONING = "tercet.dev/provisioning"
"""Annotation of a node: how long it takes from created to ready, a Go duration."""
FAIL = "tercet.dev/fail"
"""Annotation of a pod or node: fail, with the value as the reason."""


def simulated_nodes(
    count: int,
    *,
    gpus: int = 8,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    prefix: str = "gpu",
) -> Iterator[dict[str, Any]]:
    """Yield manifests of alike nodes, `PREFIX-0` and up.

    Args:
        count: How many.
        gpus: Allocatable `nvidia.com/gpu` of each.
        labels: Beside the hostname, such as those of topology.
        annotations: Beside KWOK's own, such as `PROVISIONING`.
        prefix: Of the names.
    """
    room = {"cpu": "96", "memory": "1Ti", "pods": "110", "nvidia.com/gpu": str(gpus)}
    for number in range(count):
        name = f"{prefix}-{number}"
        yield {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "labels": {"kubernetes.io/hostname": name, **(labels or {})},
                "annotations": {**FAKE, **(annotations or {})},
            },
            "status": {"allocatable": room, "capacity": room},
        }
