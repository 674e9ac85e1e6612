"""Policies that lie in ConfigMaps."""

import kubernetes

from orchestrator.adapters.kube import ask, unix_s
from orchestrator.kube_names import POLICY_FILE
from orchestrator.ports import PolicyEdition


class KubePolicies:
    """`orchestrator.ports.PolicySource` in one namespace of one Kubernetes cluster.

    A ConfigMap's version is when it was made and its resource version: the latter grows with every edit, and
    the former where it was made anew, also on another cluster.

    Args:
        client: Of that cluster.
        namespace: Where the ConfigMaps are.
    """

    def __init__(self, client: kubernetes.client.ApiClient, namespace: str) -> None:
        self._core = kubernetes.client.CoreV1Api(client)
        self._namespace = namespace

    def read(self, name: str) -> PolicyEdition | None:
        """See `PolicySource.read`."""
        found = ask(self._core.read_namespaced_config_map, name, self._namespace)
        files = dict(found.get("data") or {}) if found else {}
        if POLICY_FILE not in files:
            return None
        about = found["metadata"]
        version = int(unix_s(about["creationTimestamp"])), int(about["resourceVersion"])
        return PolicyEdition(version=version, text=files.pop(POLICY_FILE), beside=files)
