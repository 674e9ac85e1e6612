"""NetworkPolicies: nothing but the named edges, seen from both ends."""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_network

from infra.objects.names import COMPONENT, Object, component_labels, metadata, object_name
from infra.objects.pods import BLOB_PORT
from infra.objects.redis_access import BROKER, REDIS_PORT
from infra.shared_config import BrokerConfig
from orchestrator.addresses import PUBLIC, is_host_name
from orchestrator.kube_names import SERVICE, STAGE
from orchestrator.policy import SERVERS, Policy
from stages.types import Stage

GATEWAY_PORT, METRICS_PORT = 8080, 9090

FEDERATION = "federation"
"""Component label of a federation's controller, whose Redis servers are those of other stacks."""

BLOB_READERS = {
    "gateway": ("encode", "prefill", "decode"),
    "encode": ("gateway", "prefill"),
    "prefill": ("gateway", "decode"),
    "decode": ("gateway",),
}
"""Who may read, or release, the blobs that a part of a service holds."""

HANDS_ON = {
    Stage.ENCODE: (Stage.PREFILL,),
    Stage.PREFILL: (Stage.ENCODE, Stage.DECODE),
    Stage.DECODE: (Stage.PREFILL,),
}
"""Stages that a stage hands data to or is handed data by."""

_API_PORTS = (443, 6443)
_NODE_LOCAL_DNS = "169.254.20.10/32"

Rules = list[Object]


def part_labels(service: str, part: str) -> dict[str, str]:
    """Return the labels that select the pods of one part of a service."""
    if part == "gateway":
        return component_labels(part, service)
    return {SERVICE: service, STAGE: part}


def namespace_edges(namespace: str) -> list[Object]:
    """Return the policies of all pods: no door that no other opens, but for names."""
    cluster_dns = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}
    resolvers = [cluster_dns, _block(_NODE_LOCAL_DNS)]
    lookup = {"to": resolvers, "ports": [{"protocol": each, "port": 53} for each in ("UDP", "TCP")]}
    return [
        _policy("closed", namespace, {}, ingress=[], egress=[]),
        _policy("names", namespace, {}, egress=[lookup]),
    ]


def broker_edges(namespace: str, outside: Sequence[str], *, federated: bool) -> Object:
    """Return the policy that lets gateways, stages, controller and publisher reach Redis.

    Args:
        namespace: Of Redis.
        outside: Networks that may reach it besides.
        federated: Whether a federation's controller in another namespace of the cluster may.
    """
    clients = [
        {"podSelector": {"matchExpressions": [{"key": SERVICE, "operator": "Exists"}]}},
        *(_pods({COMPONENT: component}) for component in ("gateway", "controller", "publisher")),
        *([{"namespaceSelector": {}, **_pods(component_labels(FEDERATION))}] if federated else []),
        *(_block(network) for network in outside),
    ]
    rules = [{"from": clients, "ports": _tcp(REDIS_PORT)}]
    return _policy(BROKER, namespace, component_labels(BROKER), ingress=rules)


def controller_edges(namespace: str, broker: BrokerConfig) -> Object:
    """Return the policy that lets the controller reach Redis and the API server, which has no labels."""
    scraped: Rules = [{"ports": _tcp(METRICS_PORT)}]
    rules: Rules = [_to_redis(broker), {"ports": _tcp(*_API_PORTS)}]
    return _policy("controller", namespace, component_labels("controller"), ingress=scraped, egress=rules)


def federation_edges(namespace: str, redis_ports: Iterable[int]) -> Object:
    """Return the policy that lets a federation's controller reach Redis and API servers of other clusters."""
    scraped: Rules = [{"ports": _tcp(METRICS_PORT)}]
    rules: Rules = [{"ports": _tcp(*sorted(set(redis_ports)))}, {"ports": _tcp(*_API_PORTS)}]
    return _policy(FEDERATION, namespace, component_labels(FEDERATION), ingress=scraped, egress=rules)


def publisher_edges(namespace: str, broker: BrokerConfig) -> Object:
    """Return the policy that lets the publisher reach Redis and the API server, and nobody reach it."""
    rules: Rules = [_to_redis(broker), {"ports": _tcp(*_API_PORTS)}]
    return _policy("publisher", namespace, component_labels("publisher"), egress=rules)


def service_edges(policy: Policy, namespace: str, broker: BrokerConfig) -> list[Object]:
    """Return one policy for each part of a service."""
    redis = _to_redis(broker)
    stages = [_stage(policy, namespace, stage, redis) for stage in Stage]
    return [_gateway(policy, namespace, redis), *stages]


def group_edges(name: str, namespace: str, selector: Mapping[str, str]) -> Object:
    """Return the policy that lets the pods of replicas on several nodes reach each other, on any port."""
    peers = [_pods(selector)]
    return _policy(name, namespace, selector, ingress=[{"from": peers}], egress=[{"to": peers}])


def engine_edges(
    name: str, namespace: str, selector: Mapping[str, str], port: int, namespaces: Sequence[str]
) -> Object:
    """Return the policy that lets all pods of some namespaces reach engines."""
    chosen = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": list(namespaces)}
    peer = {"namespaceSelector": {"matchExpressions": [chosen]}}
    return _policy(name, namespace, selector, ingress=[{"from": [peer], "ports": _tcp(port)}])


def _gateway(policy: Policy, namespace: str, redis: Object) -> Object:
    clients = {"ports": _tcp(GATEWAY_PORT, METRICS_PORT)}  # wherever they are; API keys tell who may call
    media = {"to": _media(policy.admission.fetch.allow), "ports": [{"protocol": "TCP"}]}
    return _part(policy.service, "gateway", namespace, [clients], [redis, media])


def _stage(policy: Policy, namespace: str, stage: Stage, redis: Object) -> Object:
    if policy.stages[stage].engine not in SERVERS:
        return _part(policy.service, stage.value, namespace, [], [redis])
    # Engines move embeddings and KV caches themselves, over ports that UCX chooses.
    # One that has changed its role calls encoders as decode, too, and asks others what decode's graphs take.
    with_whom = tuple(Stage) if policy.switches_roles else HANDS_ON[stage]
    peers = [_pods(part_labels(policy.service, peer.value)) for peer in with_whom]
    weights = {"to": _public(), "ports": _tcp(443)}
    return _part(policy.service, stage.value, namespace, [{"from": peers}], [redis, weights, {"to": peers}])


def _part(service: str, part: str, namespace: str, ingress: Rules, egress: Rules) -> Object:
    readers = [_pods(part_labels(service, reader)) for reader in BLOB_READERS[part]]
    holders = [_pods(part_labels(service, held)) for held, by in BLOB_READERS.items() if part in by]
    return _policy(
        object_name(service, part),
        namespace,
        part_labels(service, part),
        ingress=[{"from": readers, "ports": _tcp(BLOB_PORT)}, *ingress],
        egress=[{"to": holders, "ports": _tcp(BLOB_PORT)}, *egress],
    )


def _to_redis(broker: BrokerConfig) -> Object:
    if broker.external_port:  # its address is in a Secret
        return {"ports": _tcp(broker.external_port)}
    return {"to": [_pods(component_labels(BROKER))], "ports": _tcp(REDIS_PORT)}


def _media(allowed: Sequence[str]) -> Rules:
    """Return where media may be: public addresses, and what the policy adds."""
    if any(
        is_host_name(entry) for entry in allowed
    ):  # a named host may have any address, and only the gateway knows which
        return [_block("0.0.0.0/0"), _block("::/0")]
    return [*_public(), *(_block(str(ip_network(entry))) for entry in allowed)]


def _public() -> Rules:
    return [_block(str(network), [str(each) for each in special]) for network, special in PUBLIC]


def _block(cidr: str, excepted: Iterable[str] = ()) -> Object:
    holes = list(excepted)
    return {"ipBlock": {"cidr": cidr} | ({"except": holes} if holes else {})}


def _pods(labels: Mapping[str, str]) -> Object:
    return {"podSelector": {"matchLabels": labels}}


def _tcp(*ports: int) -> Rules:
    return [{"protocol": "TCP", "port": port} for port in ports]


def _policy(
    name: str,
    namespace: str,
    selector: Mapping[str, str],
    *,
    ingress: Rules | None = None,
    egress: Rules | None = None,
) -> Object:
    """Return a policy of the directions that it has rules for."""
    rules = {"Ingress": ingress, "Egress": egress}
    given = {direction: each for direction, each in rules.items() if each is not None}
    spec = {"podSelector": {"matchLabels": selector}, "policyTypes": list(given)}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(name, namespace),
        "spec": spec | {direction.lower(): each for direction, each in given.items()},
    }
