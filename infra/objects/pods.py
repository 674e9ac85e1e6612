"""What all pods of a stack have in common: security, secrets, probes, the blob store."""

from typing import Any

from infra.objects.names import Object
from orchestrator.kube_names import STAGE

BLOB_PORT = 7070
BLOB_DIR = "/run/tercet/blobs"
SECRET_BLOB_TOKEN = "blob-token"  # noqa: S105  # name of a Secret's key

_USER = 65_532
_ROLE_DIR = "/run/tercet/role"
ROLE_FILE = f"{_ROLE_DIR}/stage"
"""Holds the stage that the pod's label names, as it is now."""


def pod_security() -> Object:
    """Return a pod's security context: the `restricted` Pod Security Standard."""
    return {
        "runAsNonRoot": True,
        "runAsUser": _USER,
        "runAsGroup": _USER,
        "fsGroup": _USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security(*, read_only: bool = True) -> Object:
    """Return a container's security context."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": read_only,
        "capabilities": {"drop": ["ALL"]},
    }


def pod_facts() -> list[Object]:
    """Return the environment that names the pod and where it is reached."""
    fields = {"POD_NAME": "metadata.name", "POD_IP": "status.podIP"}
    return [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()]


def from_secret(variable: str, secret: str, key: str) -> Object:
    """Return an environment entry that holds a Secret's key."""
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def blob_token(secret: str) -> Object:
    """Return the environment entry with the token of the stack's blob stores."""
    return from_secret("BLOB_TOKEN", secret, SECRET_BLOB_TOKEN)


def blobs() -> dict[str, Any]:
    """Return the `BlobConfig` of a pod, which is a host of its own; its environment needs `blob_token`."""
    return {"directory": BLOB_DIR, "token": "$(BLOB_TOKEN)", "listen": f"$(POD_IP):{BLOB_PORT}"}


def scratch(name: str, path: str, *, in_memory: bool = False) -> tuple[Object, Object]:
    """Return a volume that lives with the pod, and its mount."""
    medium = {"medium": "Memory"} if in_memory else {}
    return {"name": name, "emptyDir": medium}, {"name": name, "mountPath": path}


def role_file() -> tuple[Object, Object]:
    """Return a volume with `ROLE_FILE`, and its mount."""
    label = {"path": "stage", "fieldRef": {"fieldPath": f"metadata.labels['{STAGE}']"}}
    return {"name": "role", "downwardAPI": {"items": [label]}}, {"name": "role", "mountPath": _ROLE_DIR}


def tcp_probe(port: int, **times: int) -> Object:
    """Return a probe that connects."""
    return {"tcpSocket": {"port": port}, **times}


def http_probe(path: str, port: int, **times: int) -> Object:
    """Return a probe that asks for a path."""
    return {"httpGet": {"path": path, "port": port}, **times}
