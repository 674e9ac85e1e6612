"""The gateway of one service."""

import json
from dataclasses import dataclass

from infra.objects.expose import expose_objects, gateway_hpa, public_url
from infra.objects.names import SKIP_AWAIT, Object, component_labels, metadata, object_name
from infra.objects.network import GATEWAY_PORT, METRICS_PORT
from infra.objects.pods import (
    BLOB_DIR,
    BLOB_PORT,
    blob_token,
    blobs,
    container_security,
    http_probe,
    pod_facts,
    pod_security,
    scratch,
)
from infra.objects.redis_access import REDIS_URL, redis_environment, tls_files
from infra.objects.service import policy_name
from infra.service_config import ExposeConfig
from infra.shared_config import BrokerConfig
from orchestrator.kube_names import POLICY_FILE

_POLICY_DIR, _KEYS_DIR, _KEPT_DIR = "/etc/tercet/policy", "/etc/tercet/keys", "/run/tercet/kept"
_LEAVE_S = 5
_GRACE_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayArgs:
    """One service's gateway.

    Attributes:
        replicas: At least.
        max_replicas: At most.
        broker: How it reaches Redis, and the Secret with the blob token.
        keys_secret: Name of the Secret with `keys.yaml`.
    """

    service: str
    namespace: str
    replicas: int
    max_replicas: int
    image: str
    broker: BrokerConfig
    keys_secret: str
    expose: ExposeConfig | None = None

    @property
    def name(self) -> str:
        """Name of its objects, and in DNS."""
        return object_name(self.service, "gateway")

    @property
    def scaled(self) -> bool:
        """Whether an HPA sets how many there are."""
        return self.max_replicas > self.replicas

    @property
    def url(self) -> str:
        """Where clients go: outside the cluster if it is exposed, in it if not."""
        return public_url(self.expose) if self.expose else f"http://{self.name}.{self.namespace}.svc"


def gateway_objects(args: GatewayArgs) -> list[Object]:
    """Return Deployment and Service, and what was asked for besides."""
    made = [_deployment(args), _service(args)]
    if args.scaled:
        made.append(gateway_hpa(args.name, args.namespace, args.replicas, args.max_replicas))
    return [*made, *(expose_objects(args.name, args.namespace, args.expose) if args.expose else ())]


def _config() -> str:
    """Return a `GatewayConfig` as JSON in which Kubernetes replaces each `$(NAME)`."""
    return json.dumps(
        {
            "gateway_id": "$(POD_NAME).",
            "host": "0.0.0.0",  # noqa: S104  # a pod's own address is not known beforehand
            "port": GATEWAY_PORT,
            "metrics_port": METRICS_PORT,
            "redis_url": REDIS_URL,
            "policy_file": f"{_POLICY_DIR}/{POLICY_FILE}",
            "policy_published": True,
            "policy_kept": f"{_KEPT_DIR}/policy.json",
            "keys_file": f"{_KEYS_DIR}/keys.yaml",
            "blobs": blobs(),
        }
    )


def _deployment(args: GatewayArgs) -> Object:
    labels = component_labels("gateway", args.service)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        # A gateway is ready once Redis answers, whose Secret somebody else makes.
        "metadata": metadata(args.name, args.namespace, labels, SKIP_AWAIT),
        "spec": {
            "replicas": args.replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": _pod(args)},
        },
    }


def _pod(args: GatewayArgs) -> Object:
    shared, blob_mount = scratch("blobs", BLOB_DIR, in_memory=True)
    kept, kept_mount = scratch("kept", _KEPT_DIR)
    certificates = tls_files(args.broker)
    temporary, tmp_mount = scratch("tmp", "/tmp")  # noqa: S108  # the root is read-only
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _LEAVE_S + _GRACE_S,
        "securityContext": pod_security(),
        "containers": [
            {
                "name": "gateway",
                "image": args.image,
                "command": ["python", "-P", "-m", "orchestrator"],
                "env": [
                    *pod_facts(),
                    *redis_environment(args.broker, args.service),
                    blob_token(args.broker.secret),
                    {"name": "TERCET_GATEWAY", "value": _config()},
                ],
                "ports": [
                    {"name": "http", "containerPort": GATEWAY_PORT},
                    {"name": "metrics", "containerPort": METRICS_PORT},
                    {"name": "blobs", "containerPort": BLOB_PORT},
                ],
                "resources": {"requests": {"cpu": "1", "memory": "512Mi"}},
                "securityContext": container_security(),
                "startupProbe": http_probe("/health", GATEWAY_PORT, periodSeconds=1, failureThreshold=60),
                "livenessProbe": http_probe("/health", GATEWAY_PORT, periodSeconds=10, timeoutSeconds=5),
                "readinessProbe": http_probe("/ready", GATEWAY_PORT, periodSeconds=2),
                # Until every proxy has heard that this one leaves.
                "lifecycle": {"preStop": {"sleep": {"seconds": _LEAVE_S}}},
                "volumeMounts": [
                    blob_mount,
                    kept_mount,
                    tmp_mount,
                    *certificates.mounts,
                    {"name": "policy", "mountPath": _POLICY_DIR, "readOnly": True},
                    {"name": "keys", "mountPath": _KEYS_DIR, "readOnly": True},
                ],
            }
        ],
        "volumes": [
            shared,
            kept,
            temporary,
            *certificates.volumes,
            {"name": "policy", "configMap": {"name": policy_name(args.service)}},
            {"name": "keys", "secret": {"secretName": args.keys_secret}},
        ],
    }


def _service(args: GatewayArgs) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(args.name, args.namespace, annotations=SKIP_AWAIT),
        "spec": {
            "selector": component_labels("gateway", args.service),
            "ports": [{"name": "http", "port": 80, "targetPort": GATEWAY_PORT}],
        },
    }
