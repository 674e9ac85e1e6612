"""What is read from Karpenter's objects: what could be made, and what was."""

from copy import deepcopy

import pytest

from infra.objects.nodes import node_objects
from infra.stack import stack_args
from orchestrator.adapters.karpenter import made_of, node_pools, selector_of
from orchestrator.core.orders import NodePool
from orchestrator.kube_names import ACCELERATORS, HARDWARE, ORDER
from tests.infra.kit import ACCELERATORS as FACTS
from tests.infra.kit import ROOT, config_of

ZONE, RACK = "topology.kubernetes.io/zone", "example.com/rack"


def ours(zones=("a", "b"), labels=None):
    """A NodePool as `pulumi up` creates it."""
    bought = {"instance_types": ["p5.48xlarge"], "max_accelerators": 20, "role": "r", "discovery": "d"}
    pools = {
        "big": {"hardware": "h100", "karpenter": bought | {"zones": list(zones), "labels": labels or {}}}
    }
    services = {"tiny": {"policy": "policies/tiny.yaml"}}
    args = stack_args(config_of(services=services, node_pools=pools), ROOT, FACTS)
    (thing,) = [each for each in node_objects(args.node_pools[0]) if each["kind"] == "NodePool"]
    return deepcopy(thing)


def read(thing, levels=(ZONE, RACK)):
    return list(node_pools([thing], levels))


def test_a_pool_of_ours_can_be_ordered_from():
    """As many whole nodes as its limit has room for, in each of its zones."""
    found = NodePool(name="tercet-big", hardware="h100", accelerators=8, most=2, domains=(("a",), ("b",)))
    assert read(ours()) == [found]


@pytest.mark.parametrize(
    ("zones", "levels", "domains"),
    [
        pytest.param(("a",), (ZONE,), (("a",),), id="one-zone"),
        pytest.param((), (ZONE, RACK), ((),), id="any-zone"),
        pytest.param(("a", "b"), (), ((),), id="no-levels"),
        pytest.param(("a",), (RACK, ZONE), ((),), id="below-what-is-unknown"),
        pytest.param(("a",), (HARDWARE, ZONE), (("h100", "a"),), id="a-label-of-its-template"),
    ],
)
def test_what_it_names_is_known_of_a_new_node(zones, levels, domains):
    assert [each.domains for each in read(ours(zones), levels)] == [domains]


def test_a_level_that_all_its_nodes_share_is_known_of_a_new_one():
    thing = ours(labels={RACK: "reserved"})
    assert [each.domains for each in read(thing)] == [(("a", "reserved"), ("b", "reserved"))]


def test_what_karpenter_says_it_uses_is_claimed():
    thing = ours()
    thing["status"] = {"resources": {"nvidia.com/gpu": "9", "cpu": "192"}}
    assert [each.claimed for each in read(thing)] == [2]


def spec(thing):
    return thing["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda t: t["spec"]["template"]["metadata"]["labels"].pop(HARDWARE), id="hardware"),
        pytest.param(lambda t: t["spec"]["template"]["metadata"]["labels"].pop(ACCELERATORS), id="size"),
        pytest.param(lambda t: t["spec"].pop("limits"), id="no-limit"),
        pytest.param(lambda t: t["spec"].update(limits={"cpu": "8"}), id="limit-of-something-else"),
        pytest.param(lambda t: spec(t)["requirements"].pop(), id="no-order"),
        pytest.param(
            lambda t: spec(t)["taints"].append({"key": "theirs", "effect": "NoSchedule"}), id="taint"
        ),
        pytest.param(
            lambda t: t.update(status={"conditions": [{"type": "Ready", "status": "False"}]}), id="not-ready"
        ),
        pytest.param(lambda t: t["metadata"].update(deletionTimestamp="now"), id="on-its-way-out"),
    ],
)
def test_a_pool_that_cannot_make_what_is_asked_is_not_offered(spoil):
    thing = ours()
    assert spec(thing)["requirements"][-1]["key"] == ORDER
    spoil(thing)
    assert read(thing) == []


def node(name, order, *, initialized):
    labels = selector_of(order) | ({"karpenter.sh/initialized": "true"} if initialized else {})
    return {"metadata": {"name": name, "labels": labels}}


def test_an_order_is_one_until_the_accelerators_of_its_node_can_be_asked_for():
    """A pod that is bound to the node before counts as waiting for the order, and the reverse afterwards."""
    made = made_of([node("n-1", "big/1", initialized=False), node("n-2", "big/2", initialized=True)])
    assert made.coming == {"n-1"}
    assert [made.place(each) for each in ("n-1", "big/1", "n-2", "big/2", "other", "big/3", "")] == [
        "big/1", "big/1", "n-2", "n-2", "other", "big/3", "",
    ]  # fmt: skip


def test_nodes_that_were_not_made_to_order_are_as_ever():
    plain = {"metadata": {"name": "n", "labels": {HARDWARE: "h100"}}}
    assert made_of([plain]).place("n") == "n"
