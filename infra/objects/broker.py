"""Redis: queues, ledger and registry."""

from dataclasses import dataclass

from infra.objects.names import SKIP_AWAIT, Object, component_labels, metadata
from infra.objects.network import broker_edges
from infra.objects.pods import container_security, pod_security, tcp_probe
from infra.objects.redis_access import BROKER, CA_FILE, REDIS_PORT, TLS_DIR, redis_environment, tls_files
from infra.shared_config import BrokerConfig

_OVERHEAD = 1.5
"""Memory over what Redis may fill: fragmentation, and copies while it rewrites its file."""

_TLS_KEYS = ("tls.crt", "tls.key", CA_FILE)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerArgs:
    """The Redis servers of a stack.

    Attributes:
        federated: Whether the controller of a federation reaches them.
    """

    namespace: str
    config: BrokerConfig
    federated: bool = False


def broker_objects(args: BrokerArgs) -> list[Object]:
    """Return StatefulSet, Service and NetworkPolicy; nothing if Redis is somebody else's."""
    if args.config.external_port:
        return []
    labels = component_labels(BROKER)
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(BROKER, args.namespace, labels, SKIP_AWAIT),
        "spec": {
            "clusterIP": "None",
            "selector": labels,
            "ports": [{"name": "redis", "port": REDIS_PORT, "targetPort": REDIS_PORT}],
        },
    }
    edges = broker_edges(args.namespace, args.config.outside, federated=args.federated)
    return [_stateful_set(args, labels), service, edges]


def _stateful_set(args: BrokerArgs, labels: dict[str, str]) -> Object:
    config = args.config
    files = tls_files(config, *_TLS_KEYS)
    data = () if config.storage_gb else ({"name": "data", "emptyDir": {}},)
    pod = {**_pod(config, files.mounts), "volumes": [*data, *files.volumes]}
    spec: Object = {
        "serviceName": BROKER,
        "replicas": config.shards,
        "podManagementPolicy": "Parallel",  # shards know nothing of each other
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    if config.storage_gb:
        spec["volumeClaimTemplates"] = [_claim(config)]
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(BROKER, args.namespace, labels, SKIP_AWAIT),
        "spec": spec,
    }


def _claim(config: BrokerConfig) -> Object:
    chosen = {"storageClassName": config.storage_class} if config.storage_class else {}
    return {
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": f"{config.storage_gb}G"}},
            **chosen,
        },
    }


def _tls_settings() -> dict[str, str]:
    """Return settings that leave no way in without TLS; who calls is told by the password."""
    certificate, key = _TLS_KEYS[:2]
    return {
        "port": "0",
        "tls-port": str(REDIS_PORT),
        "tls-cert-file": f"{TLS_DIR}/{certificate}",
        "tls-key-file": f"{TLS_DIR}/{key}",
        "tls-ca-cert-file": f"{TLS_DIR}/{CA_FILE}",
        "tls-auth-clients": "no",
    }


def _pod(config: BrokerConfig, mounts: tuple[Object, ...]) -> Object:
    settings = {
        "requirepass": "$(REDIS_PASSWORD)",
        "dir": "/data",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory": f"{config.memory_mb}mb",
        "maxmemory-policy": "noeviction",
    } | (_tls_settings() if config.tls_secret else {})
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
                "env": redis_environment(config),
                "ports": [{"name": "redis", "containerPort": REDIS_PORT}],
                "resources": {
                    "requests": {"cpu": "500m", "memory": f"{config.memory_mb}M"},
                    "limits": {"memory": f"{round(config.memory_mb * _OVERHEAD)}M"},
                },
                "securityContext": container_security(),
                "readinessProbe": tcp_probe(REDIS_PORT, periodSeconds=2),
                "livenessProbe": tcp_probe(REDIS_PORT, periodSeconds=10),
                "volumeMounts": [{"name": "data", "mountPath": "/data"}, *mounts],
            }
        ],
    }
