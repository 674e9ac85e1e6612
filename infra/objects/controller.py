"""The controller and what it may do."""

from collections.abc import Mapping, Sequence
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

CLUSTER_RULES: list[Object] = [{"apiGroups": [""], "resources": ["nodes", "pods"], "verbs": ["list"]}]
"""Everywhere: where accelerators are, and who holds them."""

KARPENTER_RULES: list[Object] = [{"apiGroups": [KARPENTER], "resources": ["nodepools"], "verbs": ["list"]}]
"""With Karpenter: what it could make."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerArgs:
    """The controller of a stack.

    Attributes:
        services: Those that it scales.
        pools: Names of their Deployments.
        broker: How it reaches Redis.
        karpenter: Whether it may order nodes of Karpenter.
        elsewhere: Whether it runs in another cluster, as a federation's: it then has an account here, no pod.
    """

    namespace: str
    services: tuple[str, ...]
    pools: tuple[str, ...]
    image: str
    broker: BrokerConfig
    karpenter: bool = False
    elsewhere: bool = False


def controller_objects(args: ControllerArgs) -> list[Object]:
    """Return ServiceAccount and roles with their bindings; NetworkPolicy and Deployment if it runs here."""
    # Whether it asks for what Karpenter could make is one answer for all clusters of a federation.
    asks_karpenter = args.karpenter or args.elsewhere
    accounts = [
        *account(NAME, args.namespace, namespace_rules(args.pools)),
        *everywhere(NAME, args.namespace, CLUSTER_RULES + (KARPENTER_RULES if asks_karpenter else [])),
    ]
    if args.elsewhere:
        return accounts
    return [*accounts, controller_edges(args.namespace, args.broker), _deployment(args)]


def namespace_rules(pools: Sequence[str]) -> list[Object]:
    """Return what it may do in its own namespace: counts of these pools; gate, place and cost of pods.

    Names of pods are not known beforehand, so it may patch all of them.
    """
    apps = {"apiGroups": ["apps"]}
    return [
        {**apps, "resources": ["deployments"], "verbs": ["list"]},
        {**apps, "resources": ["deployments/scale"], "resourceNames": list(pools), "verbs": ["patch"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "patch"]},
    ]


def _deployment(args: ControllerArgs) -> Object:
    certificates = tls_files(args.broker)
    pod = ControllerPod(
        labels=_LABELS,
        identity={"serviceAccountName": NAME},
        image=args.image,
        services=args.services,
        flags=("--published", *(["--karpenter"] if args.karpenter else [])),
        environment=(
            *redis_environment(args.broker),
            {"name": "TERCET_REDIS_URL", "value": REDIS_URL},
            {"name": "TERCET_NAMESPACE", "value": args.namespace},
        ),
        volumes=certificates.volumes,
        mounts=certificates.mounts,
    )
    about = metadata(NAME, args.namespace, _LABELS, SKIP_AWAIT)
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": about, "spec": controller_spec(pod)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerPod:
    """What the pods of controllers differ in.

    Attributes:
        labels: Of the pod.
        identity: Fields of the pod that say which account it has.
        image: Of the container.
        services: Whose policies lie in ConfigMaps beside it.
        flags: Of `tercet controller`, beside policies.
        environment: Beside the port of metrics.
        volumes: Beside policies and a place for temporary files.
        mounts: Theirs.
    """

    labels: Mapping[str, str]
    identity: Object
    image: str
    services: tuple[str, ...]
    flags: tuple[str, ...]
    environment: tuple[Object, ...]
    volumes: tuple[Object, ...]
    mounts: tuple[Object, ...]


def controller_spec(args: ControllerPod) -> Object:
    """Return what the Deployment of a controller says of its pod."""
    labels = dict(args.labels)
    return {
        "replicas": 1,
        "strategy": {"type": "Recreate"},  # two would undo each other's steps
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": _pod(args)},
    }


def _pod(args: ControllerPod) -> Object:
    folders = {service: f"/etc/tercet/policies/{service}" for service in args.services}
    temporary, mount = scratch("tmp", "/tmp")  # noqa: S108  # the root is read-only
    names = [f"policy-{number}" for number in range(len(args.services))]
    return {
        **args.identity,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        "containers": [
            {
                "name": "controller",
                "image": args.image,
                "command": ["tercet", "controller"],
                "args": [*args.flags, *(f"--policy={folder}/{POLICY_FILE}" for folder in folders.values())],
                "env": [*args.environment, {"name": "TERCET_METRICS_PORT", "value": str(METRICS_PORT)}],
                "ports": [{"name": "metrics", "containerPort": METRICS_PORT}],
                "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}},
                "securityContext": container_security(),
                "volumeMounts": [
                    mount,
                    *args.mounts,
                    *(
                        {"name": name, "mountPath": folder, "readOnly": True}
                        for name, folder in zip(names, folders.values(), strict=True)
                    ),
                ],
            }
        ],
        "volumes": [
            temporary,
            *args.volumes,
            *(
                {"name": name, "configMap": {"name": policy_name(service)}}
                for name, service in zip(names, args.services, strict=True)
            ),
        ],
    }
