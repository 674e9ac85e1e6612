"""Which connections the NetworkPolicies of a stack leave open: these, and no other."""

import itertools

import pytest

from infra.objects.names import object_name
from infra.objects.network import part_labels, service_edges
from infra.shared_config import BrokerConfig
from infra.stack import stack_args
from orchestrator.policy import load_policy
from stages.types import Stage
from tests.infra.kit import ACCELERATORS, ROOT, config_of
from tests.infra.reach import Pod, may_connect

SERVICES = {
    "internvl-26b": {"policy": "policies/internvl-26b.yaml"},
    "tiny": {"policy": "policies/tiny.yaml"},
}
STACK = stack_args(config_of(services=SERVICES), ROOT, ACCELERATORS)
POLICIES = [thing for thing in STACK.objects() if thing["kind"] == "NetworkPolicy"]
OTHERS = {
    "stranger": Pod(address="10.0.9.1", namespace="other", labels={"app.kubernetes.io/component": "gateway"}),
    "dns": Pod(address="10.0.9.2", namespace="kube-system", labels={"k8s-app": "kube-dns"}),
    "node-dns": Pod(address="169.254.20.10"),
    "metadata": Pod(address="169.254.169.254"),
    "kube-api": Pod(address="10.96.0.1"),
    "internet": Pod(address="93.184.216.34"),
    "internet-6": Pod(address="2606:2800:220:1::1"),
}
PORTS = {("TCP", port) for port in (22, 53, 80, 443, 6379, 6443, 7070, 8000, 8080, 9090)} | {("UDP", 53)}
INTERNET = ("internet", "internet-6")
NEAR = {"encode": ["prefill"], "prefill": ["encode", "decode"], "decode": ["prefill"]}


def own_pods():
    """One pod of each workload, by a short name."""
    workloads = [thing for thing in STACK.objects() if thing["kind"] in ("Deployment", "StatefulSet")]
    for number, each in enumerate(workloads):
        labels = each["spec"]["template"]["metadata"]["labels"]
        yield each["metadata"]["name"], Pod(address=f"10.0.0.{number + 1}", namespace="tercet", labels=labels)


OURS = dict(own_pods())
ALL = OURS | OTHERS


def edges_of(service, stages, *, weights):
    """Return the edges that one service should have, from and to each pool of its stages."""
    gateway = f"{service}-gateway"
    readers = {"encode": ["prefill"], "prefill": ["decode"], "decode": []}
    for stage, pools in stages.items():
        for pool in pools:
            yield from {
                (gateway, pool, "TCP", 7070),
                (pool, gateway, "TCP", 7070),
                (pool, "redis", "TCP", 6379),
            }
            yield from {(other, pool, "TCP", 7070) for reader in readers[stage] for other in stages[reader]}
            yield from {(pool, out, "TCP", 443) for out in INTERNET if weights}
            # Engine servers hand embeddings and KV caches on over ports of their choosing.
            peers = [other for near in NEAR[stage] for other in stages[near]] if weights else []
            yield from {(pool, peer, "TCP", port) for peer in peers for kind, port in PORTS if kind == "TCP"}
            yield from {(pool, peer, "UDP", 53) for peer in peers}
    yield (gateway, "redis", "TCP", 6379)
    yield from {(client, gateway, "TCP", port) for client in OTHERS for port in (8080, 9090)}
    yield from {(gateway, out, "TCP", port) for out in INTERNET for kind, port in PORTS if kind == "TCP"}


def wanted():
    internvl = {
        "encode": ["internvl-26b-encode-l40s", "internvl-26b-encode-a100"],
        "prefill": ["internvl-26b-prefill-h100"],
        "decode": ["internvl-26b-decode-h20", "internvl-26b-decode-h100"],
    }
    tiny = {stage: [f"tiny-{stage}-cpu"] for stage in internvl}
    yield from edges_of("internvl-26b", internvl, weights=True)
    yield from edges_of("tiny", tiny, weights=False)
    yield ("tercet-controller", "redis", "TCP", 6379)
    yield ("tercet-publisher", "redis", "TCP", 6379)
    yield from {(client, "tercet-controller", "TCP", 9090) for client in OTHERS}
    # An API server has no labels to name it by, so its ports are open to wherever it may be.
    asking = ("tercet-controller", "tercet-publisher")
    yield from {(ours, other, "TCP", port) for ours in asking for other in OTHERS for port in (443, 6443)}
    yield from {
        (ours, dns, kind, 53) for ours in OURS for dns in ("dns", "node-dns") for kind in ("TCP", "UDP")
    }


def test_exactly_the_edges_of_the_data_path_are_open():
    """Every pair of pods, and of a pod and what is outside, at every port that somebody listens at."""
    pairs = [(a, b) for a, b in itertools.permutations(ALL, 2) if a in OURS or b in OURS]
    found = {
        (source, target, protocol, port)
        for source, target in pairs
        for protocol, port in PORTS
        if may_connect(POLICIES, ALL[source], ALL[target], port, protocol)
    }
    assert found == set(wanted())


@pytest.mark.parametrize(
    ("allow", "reached"),
    [
        pytest.param("[]", set(), id="public"),
        pytest.param("[10.96.0.0/16]", {"kube-api"}, id="network"),
        pytest.param("[images.internal]", set(OTHERS) - set(INTERNET), id="host"),
    ],
)
def test_the_gateway_reaches_what_the_policy_lets_it_fetch(tmp_path, allow, reached):
    """A network is opened; behind the name of a host may be any address."""
    file = tmp_path / "tiny.yaml"
    text = (ROOT / "policies/tiny.yaml").read_text()
    file.write_text(text.replace("queue_s: 10", f"queue_s: 10, fetch: {{allow: {allow}}}"))
    stack = stack_args(config_of(services={"tiny": {"policy": str(file)}}), ROOT, ACCELERATORS)
    policies = [thing for thing in stack.objects() if thing["kind"] == "NetworkPolicy"]
    gateway = OURS["tiny-gateway"]
    found = {name for name, other in OTHERS.items() if may_connect(policies, gateway, other, 80)}
    assert found == reached | set(INTERNET)


def test_where_roles_change_every_stage_reaches_every_other():
    """One that has changed calls encoders as decode, and asks others what decode's graphs take."""
    policy = load_policy(ROOT / "policies" / "examples" / "sglang-roles.yaml")
    edges = {each["metadata"]["name"]: each for each in service_edges(policy, "ours", BrokerConfig())}
    wanted = [{"podSelector": {"matchLabels": part_labels(policy.service, stage)}} for stage in Stage]
    for stage in Stage:
        spec = edges[object_name(policy.service, stage)]["spec"]
        assert {"from": wanted} in spec["ingress"] and {"to": wanted} in spec["egress"]
