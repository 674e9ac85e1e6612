"""What pods ask of a node and what is left of it, counted as kube-scheduler counts."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from kubernetes.utils import parse_quantity

Object = Mapping[str, Any]


def free(node: Object, resource: str, holders: Iterable[Object]) -> int:
    """Return how many whole units of a resource the pods on a node leave; 0 if they hold too much."""
    capacity = amount(node.get("status", {}).get("allocatable", {}), resource)
    return max(0, int(capacity - sum(asked(pod, resource) for pod in holders)))


def asked(pod: Object, resource: str) -> Decimal:
    """Return what a pod needs of a resource at once, in its unit.

    Its containers run together with its sidecars (init containers that restart always); other init
    containers run before, one after another, beside the sidecars that stand above them.
    """
    spec = pod["spec"]
    sidecars = peak = Decimal(0)
    for each in spec.get("initContainers", ()):
        amount = _of_container(each, resource)
        if each.get("restartPolicy") == "Always":
            sidecars += amount
            peak = max(peak, sidecars)
        else:
            peak = max(peak, sidecars + amount)
    return max(peak, sum((_of_container(each, resource) for each in spec["containers"]), sidecars))


def _of_container(container: Object, resource: str) -> Decimal:
    resources = container.get("resources", {})
    # Where only a limit is given, it is the request too.
    return amount({**resources.get("limits", {}), **resources.get("requests", {})}, resource)


def amount(quantities: Mapping[str, Any], resource: str) -> Decimal:
    """Return how much of a resource there is in its unit, none if it is not named."""
    return Decimal(parse_quantity(quantities.get(resource, 0)))
