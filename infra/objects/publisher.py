"""The publisher: brings edits of live fields to the running processes of a stack."""

from dataclasses import dataclass

from infra.objects.accounts import account
from infra.objects.names import SKIP_AWAIT, Object, component_labels, metadata
from infra.objects.network import publisher_edges
from infra.objects.pods import container_security, pod_security, scratch
from infra.objects.redis_access import REDIS_URL, redis_environment, tls_files
from infra.objects.service import policy_name
from infra.shared_config import BrokerConfig

NAME = "tercet-publisher"
_LABELS = component_labels("publisher")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublisherArgs:
    """The publisher of a stack.

    Attributes:
        services: Whose policies it publishes.
        broker: How it reaches Redis.
    """

    namespace: str
    services: tuple[str, ...]
    image: str
    broker: BrokerConfig

    @property
    def policies(self) -> list[str]:
        """Names of the ConfigMaps that it reads."""
        return [policy_name(service) for service in self.services]


def publisher_objects(args: PublisherArgs) -> list[Object]:
    """Return ServiceAccount, Role with its binding, NetworkPolicy and Deployment."""
    return [
        *account(NAME, args.namespace, publisher_rules(args.policies)),
        publisher_edges(args.namespace, args.broker),
        _deployment(args),
    ]


def publisher_rules(policies: list[str]) -> list[Object]:
    """Return what it may do: read these ConfigMaps, and no other."""
    return [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": policies, "verbs": ["get"]}]


def _deployment(args: PublisherArgs) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(NAME, args.namespace, _LABELS, SKIP_AWAIT),
        "spec": {
            "replicas": 1,  # while a pod is replaced there are two: an older version never overwrites a newer
            "selector": {"matchLabels": _LABELS},
            "template": {"metadata": {"labels": _LABELS}, "spec": _pod(args)},
        },
    }


def _pod(args: PublisherArgs) -> Object:
    temporary, mount = scratch("tmp", "/tmp")  # noqa: S108  # the root is read-only
    certificates = tls_files(args.broker)
    return {
        "serviceAccountName": NAME,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        "containers": [
            {
                "name": "publisher",
                "image": args.image,
                "command": ["tercet", "publisher"],
                "args": [f"--config-map={name}" for name in args.policies],
                "env": [
                    *redis_environment(args.broker),
                    {"name": "TERCET_REDIS_URL", "value": REDIS_URL},
                    {"name": "TERCET_NAMESPACE", "value": args.namespace},
                ],
                "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
                "securityContext": container_security(),
                "volumeMounts": [mount, *certificates.mounts],
            }
        ],
        "volumes": [temporary, *certificates.volumes],
    }
