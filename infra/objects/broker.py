"""Redis: queues, ledger and registry."""

from dataclasses import dataclass

from infra.config import BrokerConfig
from infra.objects.names import Object, component_labels, metadata
from infra.objects.network import broker_edges
from infra.objects.pods import (
    BROKER,
    REDIS_PORT,
    SECRET_PASSWORD,
    container_security,
    from_secret,
    pod_security,
    tcp_probe,
)

_OVERHEAD = 1.5
"""Memory over what Redis may fill: fragmentation, and copies while it rewrites its file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerArgs:
    """One Redis."""

    namespace: str
    config: BrokerConfig


def broker_objects(args: BrokerArgs) -> list[Object]:
    """Return StatefulSet, Service and NetworkPolicy."""
    labels = component_labels(BROKER)
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(BROKER, args.namespace, labels, {"pulumi.com/skipAwait": "true"}),
        "spec": {
            "clusterIP": "None",
            "selector": labels,
            "ports": [{"name": "redis", "port": REDIS_PORT, "targetPort": REDIS_PORT}],
        },
    }
    return [_stateful_set(args, labels), service, broker_edges(args.namespace)]


def _stateful_set(args: BrokerArgs, labels: dict[str, str]) -> Object:
    storage = args.config.storage_gb
    pod = _pod(args.config) | ({} if storage else {"volumes": [{"name": "data", "emptyDir": {}}]})
    spec: Object = {
        "serviceName": BROKER,
        "replicas": 1,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    if storage:
        spec["volumeClaimTemplates"] = [_claim(storage)]
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(BROKER, args.namespace, labels, {"pulumi.com/skipAwait": "true"}),
        "spec": spec,
    }


def _claim(storage_gb: int) -> Object:
    return {
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": f"{storage_gb}G"}},
        },
    }


def _pod(config: BrokerConfig) -> Object:
    settings = {
        "requirepass": "$(REDIS_PASSWORD)",
        "dir": "/data",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory": f"{config.memory_mb}mb",
        "maxmemory-policy": "noeviction",
    }
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        "containers": [
            {
                "name": "redis",
                "image": config.image,
                "command": ["redis-server"],
                "args": [word for key, value in settings.items() for word in (f"--{key}", value)],
                "env": [from_secret("REDIS_PASSWORD", config.secret, SECRET_PASSWORD)],
                "ports": [{"name": "redis", "containerPort": REDIS_PORT}],
                "resources": {
                    "requests": {"cpu": "500m", "memory": f"{config.memory_mb}M"},
                    "limits": {"memory": f"{round(config.memory_mb * _OVERHEAD)}M"},
                },
                "securityContext": container_security(),
                "readinessProbe": tcp_probe(REDIS_PORT, periodSeconds=2),
                "livenessProbe": tcp_probe(REDIS_PORT, periodSeconds=10),
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }
        ],
    }
