"""The gateway of one service."""

import json
from dataclasses import dataclass

from infra.objects.names import Object, component_labels, metadata, object_name
from infra.objects.network import GATEWAY_PORT, METRICS_PORT
from infra.objects.pods import (
    BLOB_DIR,
    BLOB_PORT,
    REDIS_URL,
    blobs,
    container_security,
    http_probe,
    pod_facts,
    pod_security,
    scratch,
    secrets,
)
from infra.objects.service import POLICY_KEY, policy_name

_POLICY_DIR, _KEYS_DIR, _KEPT_DIR = "/etc/tercet/policy", "/etc/tercet/keys", "/run/tercet/kept"
_LEAVE_S = 5
_GRACE_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayArgs:
    """One service's gateway.

    Attributes:
        secret: Name of the Secret with Redis's password and the blob token.
        keys_secret: Name of the Secret with `keys.yaml`.
    """

    service: str
    namespace: str
    replicas: int
    image: str
    secret: str
    keys_secret: str

    @property
    def name(self) -> str:
        """Name of its objects, and in DNS."""
        return object_name(self.service, "gateway")

    @property
    def url(self) -> str:
        """Where clients in the cluster go."""
        return f"http://{self.name}.{self.namespace}.svc"


def gateway_objects(args: GatewayArgs) -> list[Object]:
    """Return Deployment and Service."""
    return [_deployment(args), _service(args)]


def _config() -> str:
    """Return a `GatewayConfig` as JSON in which Kubernetes replaces each `$(NAME)`."""
    return json.dumps(
        {
            "gateway_id": "$(POD_NAME).",
            "host": "0.0.0.0",  # noqa: S104  # a pod's own address is not known beforehand
            "port": GATEWAY_PORT,
            "metrics_port": METRICS_PORT,
            "redis_url": REDIS_URL,
            "policy_file": f"{_POLICY_DIR}/{POLICY_KEY}",
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
        "metadata": metadata(args.name, args.namespace, labels, {"pulumi.com/skipAwait": "true"}),
        "spec": {
            "replicas": args.replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": _pod(args)},
        },
    }


def _pod(args: GatewayArgs) -> Object:
    shared, blob_mount = scratch("blobs", BLOB_DIR, in_memory=True)
    kept, kept_mount = scratch("kept", _KEPT_DIR)
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
                    *secrets(args.secret),
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
                    {"name": "policy", "mountPath": _POLICY_DIR, "readOnly": True},
                    {"name": "keys", "mountPath": _KEYS_DIR, "readOnly": True},
                ],
            }
        ],
        "volumes": [
            shared,
            kept,
            temporary,
            {"name": "policy", "configMap": {"name": policy_name(args.service)}},
            {"name": "keys", "secret": {"secretName": args.keys_secret}},
        ],
    }


def _service(args: GatewayArgs) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(args.name, args.namespace, annotations={"pulumi.com/skipAwait": "true"}),
        "spec": {
            "selector": component_labels("gateway", args.service),
            "ports": [{"name": "http", "port": 80, "targetPort": GATEWAY_PORT}],
        },
    }
