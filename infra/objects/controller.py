"""The controller and what it may do."""

from dataclasses import dataclass

from infra.objects.accounts import account, everywhere
from infra.objects.names import SKIP_AWAIT, Object, component_labels, metadata
from infra.objects.network import METRICS_PORT, controller_edges
from infra.objects.pods import container_security, pod_security, scratch
from infra.objects.redis_access import REDIS_URL, redis_environment, tls_files
from infra.objects.service import policy_name
from infra.shared_config import BrokerConfig
from orchestrator.kube_names import KARPENTER, POLICY_FILE

NAME = "tercet-controller"
_LABELS = component_labels("controller")

NAMESPACE_RULES: list[Object] = [
    {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list"]},
    {"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["patch"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "patch"]},
]
"""In its own namespace: counts of pools; gate, place and deletion cost of pods."""

CLUSTER_RULES: list[Object] = [{"apiGroups": [""], "resources": ["nodes", "pods"], "verbs": ["list"]}]
"""Everywhere: where accelerators are, and who holds them."""

KARPENTER_RULES: list[Object] = [{"apiGroups": [KARPENTER], "resources": ["nodepools"], "verbs": ["list"]}]
"""With Karpenter: what it could make."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerArgs:
    """The controller of a stack.

    Attributes:
        services: Those that it scales.
        broker: How it reaches Redis.
        karpenter: Whether it may order nodes of Karpenter.
    """

    namespace: str
    services: tuple[str, ...]
    image: str
    broker: BrokerConfig
    karpenter: bool = False


def controller_objects(args: ControllerArgs) -> list[Object]:
    """Return ServiceAccount, roles with their bindings, NetworkPolicy and Deployment."""
    cluster_rules = CLUSTER_RULES + (KARPENTER_RULES if args.karpenter else [])
    return [
        *account(NAME, args.namespace, NAMESPACE_RULES),
        *everywhere(NAME, args.namespace, cluster_rules),
        controller_edges(args.namespace, args.broker),
        _deployment(args),
    ]


def _deployment(args: ControllerArgs) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(NAME, args.namespace, _LABELS, SKIP_AWAIT),
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},  # two would undo each other's steps
            "selector": {"matchLabels": _LABELS},
            "template": {"metadata": {"labels": _LABELS}, "spec": _pod(args)},
        },
    }


def _pod(args: ControllerArgs) -> Object:
    folders = {service: f"/etc/tercet/policies/{service}" for service in args.services}
    temporary, mount = scratch("tmp", "/tmp")  # noqa: S108  # the root is read-only
    certificates = tls_files(args.broker)
    names = [f"policy-{number}" for number in range(len(args.services))]
    return {
        "serviceAccountName": NAME,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        "containers": [
            {
                "name": "controller",
                "image": args.image,
                "command": ["tercet", "controller"],
                "args": [
                    "--published",
                    *(["--karpenter"] if args.karpenter else []),
                    *(f"--policy={folder}/{POLICY_FILE}" for folder in folders.values()),
                ],
                "env": [
                    *redis_environment(args.broker),
                    {"name": "TERCET_REDIS_URL", "value": REDIS_URL},
                    {"name": "TERCET_NAMESPACE", "value": args.namespace},
                    {"name": "TERCET_METRICS_PORT", "value": str(METRICS_PORT)},
                ],
                "ports": [{"name": "metrics", "containerPort": METRICS_PORT}],
                "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}},
                "securityContext": container_security(),
                "volumeMounts": [
                    mount,
                    *certificates.mounts,
                    *(
                        {"name": name, "mountPath": folder, "readOnly": True}
                        for name, folder in zip(names, folders.values(), strict=True)
                    ),
                ],
            }
        ],
        "volumes": [
            temporary,
            *certificates.volumes,
            *(
                {"name": name, "configMap": {"name": policy_name(service)}}
                for name, service in zip(names, args.services, strict=True)
            ),
        ],
    }
