"""The controller of a federation: one for the services of several stacks, in a cluster of its own choice."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from infra.objects.controller import ControllerArgs, ControllerPod, controller_spec
from infra.objects.names import SKIP_AWAIT, Object, component_labels, metadata
from infra.objects.network import FEDERATION, federation_edges, namespace_edges
from infra.objects.pods import from_secret
from infra.objects.redis_access import CA_FILE, url_keys
from infra.objects.service import policy_map
from orchestrator.policy import Policy

NAME = "tercet-federation"
KUBECONFIG = "kubeconfig"
"""Key of a member's Secret: how its API server is reached, and with which token."""

_LABELS = component_labels(FEDERATION)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberArgs:
    """One cluster of a federation.

    Attributes:
        name: Within the federation.
        stack: Its stack, as a StackReference names it.
        secret: Name of the Secret with `kubeconfig`, `url` or `url-0` and so on, and `ca.crt` for TLS.
        redis_port: At which its Redis is reached.
    """

    name: str
    stack: str
    secret: str
    redis_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberFacts:
    """What a member says of itself, as its stack's output `member`.

    Attributes:
        namespace: Where its pools are.
        services: Those that a federation's controller is to scale.
        shards: Redis servers.
        tls: Whether they are asked with an authority's certificate.
        karpenter: Whether Karpenter makes nodes there.
    """

    namespace: str
    services: tuple[str, ...]
    shards: int
    tls: bool
    karpenter: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationArgs:
    """A federation's controller.

    Attributes:
        policies: Of its services; each with the text of the profile that it names, empty for none.
        members: At least two.
    """

    namespace: str
    image: str
    policies: tuple[tuple[Policy, str], ...]
    members: tuple[MemberArgs, ...]

    @property
    def services(self) -> tuple[str, ...]:
        """Names of its services."""
        return tuple(policy.service for policy, _ in self.policies)


def member_output(args: ControllerArgs) -> dict[str, Any]:
    """Return the output `member` of a stack whose controller is a federation's."""
    facts = MemberFacts(
        namespace=args.namespace,
        services=args.services,
        shards=args.broker.shards,
        tls=bool(args.broker.tls_secret),
        karpenter=args.karpenter,
    )
    return asdict(facts) | {"services": list(facts.services)}


def federation_objects(args: FederationArgs, spec: Any) -> list[Object]:
    """Return Namespace, NetworkPolicies, policies and the Deployment with what `federation_spec` returns."""
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata(args.namespace)},
        *namespace_edges(args.namespace),
        federation_edges(args.namespace, [member.redis_port for member in args.members]),
        *(policy_map(policy, args.namespace, profile) for policy, profile in args.policies),
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata(NAME, args.namespace, _LABELS, SKIP_AWAIT),
            "spec": spec,
        },
    ]


def federation_spec(args: FederationArgs, facts: Mapping[str, MemberFacts]) -> Object:
    """Return what the Deployment says of its pod, by facts of each member by name."""
    urls = {member.name: _redis(number, member, facts) for number, member in enumerate(args.members)}
    entries = [(name, entry) for name, own in urls.items() for entry in own]
    # Put in by Kubernetes: no URL is in the object.
    named = " ".join(f"{name}=$({entry['name']})" for name, entry in entries)
    pod = ControllerPod(
        labels=_LABELS,
        identity={"automountServiceAccountToken": False},  # where it runs it has nothing to say
        image=args.image,
        services=args.services,
        flags=(
            *(["--karpenter"] if any(each.karpenter for each in facts.values()) else []),
            *(f"--cluster={member.name}={_folder(member)}/{KUBECONFIG}" for member in args.members),
            *(f"--namespace={member.name}={facts[member.name].namespace}" for member in args.members),
        ),
        environment=(*(entry for _, entry in entries), {"name": "TERCET_REDIS_URL", "value": named}),
        volumes=tuple(_volume(number, member, facts) for number, member in enumerate(args.members)),
        mounts=tuple(
            {"name": f"member-{number}", "mountPath": _folder(member), "readOnly": True}
            for number, member in enumerate(args.members)
        ),
    )
    return controller_spec(pod)


def _redis(number: int, member: MemberArgs, facts: Mapping[str, MemberFacts]) -> list[Object]:
    keys = url_keys(facts[member.name].shards)
    return [from_secret(f"REDIS_URL_{number}_{shard}", member.secret, key) for shard, key in enumerate(keys)]


def _folder(member: MemberArgs) -> str:
    return f"/etc/tercet/members/{member.name}"


def _volume(number: int, member: MemberArgs, facts: Mapping[str, MemberFacts]) -> Object:
    keys = [KUBECONFIG, *([CA_FILE] if facts[member.name].tls else [])]
    items = [{"key": key, "path": key} for key in keys]
    return {"name": f"member-{number}", "secret": {"secretName": member.secret, "items": items}}
