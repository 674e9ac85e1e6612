"""What all pods of a stack have in common: security, secrets, probes, the blob store."""

from typing import Any

from infra.objects.names import Object

BLOB_PORT = 7070
REDIS_PORT = 6379
BLOB_DIR = "/run/tercet/blobs"
BROKER = "redis"
SECRET_PASSWORD = "password"  # noqa: S105  # names of a Secret's keys
SECRET_BLOB_TOKEN = "blob-token"  # noqa: S105
REDIS_URL = f"redis://:$(REDIS_PASSWORD)@{BROKER}:{REDIS_PORT}/0"
"""Kubernetes puts the password in; it has to be free of characters that a URL gives a meaning to."""

_USER = 65_532


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


def secrets(secret: str) -> list[Object]:
    """Return the environment with the stack's secrets, for `$(NAME)` in later entries."""
    return [
        from_secret("REDIS_PASSWORD", secret, SECRET_PASSWORD),
        from_secret("BLOB_TOKEN", secret, SECRET_BLOB_TOKEN),
    ]


def blobs() -> dict[str, Any]:
    """Return the `BlobConfig` of a pod, which is a host of its own."""
    return {"directory": BLOB_DIR, "token": "$(BLOB_TOKEN)", "listen": f"$(POD_IP):{BLOB_PORT}"}


def scratch(name: str, path: str, *, in_memory: bool = False) -> tuple[Object, Object]:
    """Return a volume that lives with the pod, and its mount."""
    medium = {"medium": "Memory"} if in_memory else {}
    return {"name": name, "emptyDir": medium}, {"name": name, "mountPath": path}


def tcp_probe(port: int, **times: int) -> Object:
    """Return a probe that connects."""
    return {"tcpSocket": {"port": port}, **times}


def http_probe(path: str, port: int, **times: int) -> Object:
    """Return a probe that asks for a path."""
    return {"httpGet": {"path": path, "port": port}, **times}
