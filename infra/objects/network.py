"""NetworkPolicies: nothing but the named edges of a service."""

from collections.abc import Sequence

from infra.objects.names import Object, component_labels, metadata, object_name
from infra.objects.pods import BLOB_PORT
from infra.objects.redis_access import REDIS_PORT
from orchestrator.kube_names import SERVICE, STAGE
from stages.types import Stage

GATEWAY_PORT, METRICS_PORT = 8080, 9090

BLOB_READERS = {
    "gateway": ("encode", "prefill", "decode"),
    "encode": ("gateway", "prefill"),
    "prefill": ("gateway", "decode"),
    "decode": ("gateway",),
}
"""Who may read, or release, the blobs that a part of a service holds."""


def part_labels(service: str, part: str) -> dict[str, str]:
    """Return the labels that select the pods of one part of a service."""
    if part == "gateway":
        return component_labels(part, service)
    return {SERVICE: service, STAGE: part}


def service_edges(service: str, namespace: str) -> list[Object]:
    """Return one policy for each part of a service."""
    return [_part(service, namespace, part) for part in ("gateway", *(stage.value for stage in Stage))]


def deny_all(namespace: str) -> Object:
    """Return the policy that closes every door into the namespace that no other policy opens."""
    return _policy("closed", namespace, {}, [])


def broker_edges(namespace: str, selector: dict[str, str]) -> Object:
    """Return the policy that lets the namespace's own pods reach Redis."""
    rule = {"from": [{"podSelector": {}}], "ports": [{"protocol": "TCP", "port": REDIS_PORT}]}
    return _policy("redis", namespace, selector, [rule])


def group_edges(name: str, namespace: str, selector: dict[str, str]) -> Object:
    """Return the policy that lets the pods of replicas on several nodes reach each other, on any port."""
    return _policy(name, namespace, selector, [{"from": [{"podSelector": {"matchLabels": selector}}]}])


def metrics_edges(name: str, namespace: str, selector: dict[str, str]) -> Object:
    """Return the policy that lets Prometheus in, wherever it runs."""
    return _policy(name, namespace, selector, [{"ports": [{"protocol": "TCP", "port": METRICS_PORT}]}])


def engine_edges(
    name: str, namespace: str, selector: dict[str, str], port: int, namespaces: Sequence[str]
) -> Object:
    """Return the policy that lets all pods of some namespaces reach engines."""
    chosen = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": list(namespaces)}
    peer = {"namespaceSelector": {"matchExpressions": [chosen]}}
    return _policy(
        name, namespace, selector, [{"from": [peer], "ports": [{"protocol": "TCP", "port": port}]}]
    )


def _part(service: str, namespace: str, part: str) -> Object:
    rules: list[Object] = [
        {
            "from": [
                {"podSelector": {"matchLabels": part_labels(service, reader)}}
                for reader in BLOB_READERS[part]
            ],
            "ports": [{"protocol": "TCP", "port": BLOB_PORT}],
        }
    ]
    if part == "gateway":  # open to clients wherever they are; API keys tell who may call
        rules.append({"ports": [{"protocol": "TCP", "port": port} for port in (GATEWAY_PORT, METRICS_PORT)]})
    return _policy(object_name(service, part), namespace, part_labels(service, part), rules)


def _policy(name: str, namespace: str, selector: dict[str, str], rules: list[Object]) -> Object:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(name, namespace),
        "spec": {"podSelector": {"matchLabels": selector}, "policyTypes": ["Ingress"], "ingress": rules},
    }
