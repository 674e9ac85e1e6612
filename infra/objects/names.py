"""Names and labels of objects."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.kube_names import HARDWARE, SERVICE, STAGE
from stages.types import Stage

Object = dict[str, Any]
"""A Kubernetes object as JSON."""

MAX_NAME = 52
"""Characters: a ReplicaSet and a pod append 11 and 6 to it, and their names are labels of 63 at most."""

PART_OF = {"app.kubernetes.io/part-of": "tercet", "app.kubernetes.io/managed-by": "pulumi"}
COMPONENT = "app.kubernetes.io/component"

SKIP_AWAIT = {"pulumi.com/skipAwait": "true"}
"""Annotation of what may take long to be ready, or need others for it: `pulumi up` does not wait."""


class CollisionError(ValueError):
    """Two objects would have the same name."""


def object_name(*parts: str) -> str:
    """Return a DNS label for an object; with a hash where the parts alone would be cut or not be unique."""
    plain = "-".join(parts)
    name = re.sub(r"[^a-z0-9-]", "-", plain.lower()).strip("-")
    # Only a first part with hyphens can be told from the parts behind it.
    if name == plain and len(name) <= MAX_NAME and not any("-" in part for part in parts[1:]):
        return name
    return f"{name[: MAX_NAME - 9].rstrip('-')}-{digest(list(parts))[:8]}"


def digest(value: object) -> str:
    """Return a hash in hexadecimal of a value of JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def component_labels(component: str, service: str = "") -> dict[str, str]:
    """Return the labels by which a Service or a NetworkPolicy finds the pods of one component.

    They are not the controller's: what bears `kube_names.SERVICE` is a pool to it.
    """
    return {COMPONENT: component} | ({"app.kubernetes.io/instance": service} if service else {})


def pool_labels(service: str, stage: Stage, hardware: str) -> dict[str, str]:
    """Return the labels of a pool and its pods, as the controller reads them."""
    return {SERVICE: service, STAGE: stage.value, HARDWARE: hardware}


def key_of(thing: Object) -> tuple[str, str, str, str]:
    """Return what must be unique: API version, kind, namespace and name."""
    metadata = thing["metadata"]
    return thing["apiVersion"], thing["kind"], metadata.get("namespace", ""), metadata["name"]


def check_collisions(objects: Iterable[Object]) -> None:
    """See that no two objects are the same to Kubernetes.

    Raises:
        CollisionError: Names the first pair.
    """
    seen: set[tuple[str, str, str, str]] = set()
    for thing in objects:
        key = key_of(thing)
        if key in seen:
            raise CollisionError(f"two objects would be {key[1]} {key[3]}: rename a service or a node pool")
        seen.add(key)


def metadata(
    name: str,
    namespace: str = "",
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Object:
    """Return an object's metadata."""
    made: Object = {"name": name, "labels": {**PART_OF, **(labels or {})}}
    if namespace:
        made["namespace"] = namespace
    if annotations:
        made["annotations"] = dict(annotations)
    return made
