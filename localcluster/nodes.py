"""Simulated GPU nodes: KWOK plays their kubelets."""

from collections.abc import Mapping, Sequence
from typing import Any

FAKE = {"kwok.x-k8s.io/node": "fake"}
"""Annotation by which KWOK knows the nodes that it is to play."""
FAIL = "tercet.dev/fail"
"""Annotation of a pod or node: fail, with the value as the reason."""
FAIL_AFTER = "tercet.dev/fail-after"
"""Annotation of a pod that is to fail: when, a Go duration; it does not become ready before."""
UNREADY = "tercet.dev/unready"
"""Annotation of a pod: run and not be ready, with the value as the reason."""
WAITING = "tercet.dev/waiting"
"""Annotation of a pod: do not start, its containers waiting with the value as the reason."""
RUN = "tercet.dev/run"
"""Annotation of a Job's pod: how long it runs, a Go duration."""
DRAIN = "tercet.dev/drain"
"""Annotation of a pod: how long it takes to go when it is deleted, a Go duration."""
GONE = "tercet.dev/gone"
"""Annotation of a node: be deleted, after the value, a Go duration."""


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
        annotations: Beside KWOK's own, such as `FAIL`.
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
