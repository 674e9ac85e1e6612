"""Who may connect to whom by the NetworkPolicies of a cluster, as their specification has it.

Labels alone decide: no CNI is asked. Named ports are not known here, and a kubelet always reaches its pods.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

Rule = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """One end of a connection.

    Attributes:
        address: Of the pod, or of something outside.
        namespace: Empty for what is no pod.
        labels: Its own.
        namespace_labels: Of its namespace, beside the name that Kubernetes puts there.
    """

    address: str
    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace_labels: Mapping[str, str] = field(default_factory=dict)


def may_connect(policies: Iterable[Rule], source: Pod, target: Pod, port: int, protocol: str = "TCP") -> bool:
    """Return whether the source's way out and the target's way in are open.

    Args:
        policies: All NetworkPolicies of the cluster.
        source: Who connects.
        target: To whom.
        port: Number.
        protocol: TCP, UDP or SCTP.
    """
    known = list(policies)
    out = _open(known, "Egress", source, target, port, protocol)
    return out and _open(known, "Ingress", target, source, port, protocol)


def _open(
    policies: Iterable[Rule], direction: str, subject: Pod, peer: Pod, port: int, protocol: str
) -> bool:
    """Policies add up; a pod that none of this direction selects is open to all."""
    chosen = [policy for policy in policies if _isolates(policy, direction, subject)]
    return not chosen or any(
        _meets(policy, rule, direction, peer) and _has_port(rule, port, protocol)
        for policy in chosen
        for rule in policy["spec"].get(direction.lower()) or ()
    )


def _isolates(policy: Rule, direction: str, pod: Pod) -> bool:
    spec = policy["spec"]
    types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    inside = pod.namespace == policy["metadata"]["namespace"]
    return inside and direction in types and selects(spec["podSelector"], pod.labels)


def _meets(policy: Rule, rule: Rule, direction: str, peer: Pod) -> bool:
    peers = rule.get("from" if direction == "Ingress" else "to")
    return not peers or any(_is_peer(each, peer, policy["metadata"]["namespace"]) for each in peers)


def _is_peer(wanted: Rule, peer: Pod, namespace: str) -> bool:
    if "ipBlock" in wanted:
        return _in_block(wanted["ipBlock"], peer.address)
    if not peer.namespace:
        return False
    if "namespaceSelector" in wanted:
        known = {"kubernetes.io/metadata.name": peer.namespace, **peer.namespace_labels}
        right = selects(wanted["namespaceSelector"], known)
    else:
        right = peer.namespace == namespace
    return right and selects(wanted.get("podSelector", {}), peer.labels)


def _in_block(block: Rule, address: str) -> bool:
    at = ip_address(address)
    return at in ip_network(block["cidr"]) and not any(at in ip_network(e) for e in block.get("except", ()))


def _has_port(rule: Rule, port: int, protocol: str) -> bool:
    ports = rule.get("ports")
    return not ports or any(
        each.get("protocol", "TCP") == protocol
        and ("port" not in each or each["port"] <= port <= each.get("endPort", each["port"]))
        for each in ports
    )


def selects(selector: Rule, labels: Mapping[str, str]) -> bool:
    """Return whether a label selector chooses these labels; an empty one chooses all."""
    return all(_requirements(selector, labels))


def _requirements(selector: Rule, labels: Mapping[str, str]) -> Iterator[bool]:
    for key, value in selector.get("matchLabels", {}).items():
        yield labels.get(key) == value
    for each in selector.get("matchExpressions", ()):
        held = labels.get(each["key"])
        match each["operator"]:
            case "In":
                yield held in each["values"]
            case "NotIn":
                yield held not in each["values"]
            case "Exists":
                yield held is not None
            case "DoesNotExist":
                yield held is None
