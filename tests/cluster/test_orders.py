"""From no node to replicas that serve, and back: the controller orders, a stand-in for Karpenter makes."""

import json
from collections import defaultdict

import pytest

from infra.objects.nodes import node_objects
from infra.stack import stack_args
from orchestrator.kube_names import COLD_START, DOMAIN, GROUP, HARDWARE, ORDER, STAGE
from stages.types import Stage
from tests.cluster.karpenter import Karpenter
from tests.cluster.loop import MODEL, ready, running_controller, serve_until
from tests.cluster.objects import Api, is_ready
from tests.cluster.raw import Raw, define
from tests.cluster.traffic import Traffic
from tests.fakes.redis_process import RedisProcess
from tests.infra.kit import ACCELERATORS, ROOT, config_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

LIMITS = {"h100": 48, "a100": 48}
TYPES = {"h100": "p5.48xlarge", "a100": "p4d.24xlarge"}


@pytest.fixture
def pools(cluster):
    """Two NodePools as `pulumi up` makes them; their names by hardware."""
    bought = {"role": "r", "discovery": "d", "zones": ["z-0", "z-1"], "consolidate_after_s": 5}
    declared = {
        kind: {
            "hardware": kind,
            "karpenter": bought | {"instance_types": [TYPES[kind]], "max_accelerators": most},
        }
        for kind, most in LIMITS.items()
    }
    services = {"tiny": {"policy": "policies/tiny.yaml"}}
    args = stack_args(config_of(services=services, node_pools=declared), ROOT, ACCELERATORS)
    with Raw(cluster) as raw:
        for file in sorted((ROOT / "tests/cluster/crds").glob("karpenter*")):
            define(raw, file)
        things = [thing for pool in args.node_pools for thing in node_objects(pool)]
        assert all(raw.create(thing).is_success for thing in things)
    return {kind: f"tercet-{kind}" for kind in LIMITS}


@pytest.fixture
def api(cluster):
    with Api(cluster.kubeconfig) as api:
        yield api


def nodes_of(api, hardware):
    return api.core.list_node(label_selector=f"{HARDWARE}={hardware}").items


def groups_in(api):
    """Return where prefill and decode of each group are; each was told where before it started."""
    racks = defaultdict(set)
    for pod in filter(is_ready, api.pods()):
        rack = api.rack_of(pod.spec.node_name)
        assert tuple(json.loads(pod.metadata.annotations[DOMAIN])) == rack
        if Stage(pod.metadata.labels[STAGE]) is not Stage.ENCODE:
            racks[pod.metadata.labels[GROUP]].add(rack)
    return racks


def test_nodes_come_when_load_comes_and_go_when_it_ends(cluster, pools, api, tmp_path):
    """No node is there at first; every one that comes was ordered, once, within its pool's limit."""
    options = {"karpenter": True, "annotations": {COLD_START: "8s"}}
    with (
        RedisProcess(tmp_path) as redis,
        Karpenter(cluster.kubeconfig) as karpenter,
        running_controller(cluster, api, [redis], tmp_path, **options) as log,
    ):
        traffic = Traffic(redis.url, api, MODEL)
        one_each = dict.fromkeys(Stage, 1)
        serve_until(traffic, "one replica of each stage", lambda: ready(api) == one_each, log)
        assert [len(nodes_of(api, each)) for each in LIMITS] == [1, 1], "prefill and decode share theirs"

        traffic.rate = 30.0
        grown = lambda: all(count >= 2 for count in ready(api).values())  # noqa: E731
        serve_until(traffic, "every stage has grown", grown, log, 200.0)
        groups, peak = groups_in(api), ready(api)
        assert len(groups) > 1
        assert all(len(racks) == 1 for racks in groups.values()), "prefill and decode of a group share a rack"
        for pool in pools.values():
            orders = [labels[ORDER] for labels in karpenter.made[pool]]
            assert len(set(orders)) == len(orders) > 1, "nothing is ordered twice"

        traffic.rate = 0.2
        shrunk = lambda: all(2 * count <= peak[stage] for stage, count in ready(api).items())  # noqa: E731
        serve_until(traffic, "every stage has shrunk to half", shrunk, log, 200.0)
        at_most = sum(map(len, karpenter.made.values()))
        ended = lambda: sum(len(nodes_of(api, each)) for each in LIMITS) < at_most  # noqa: E731
        serve_until(traffic, "a node has ended", ended, log)
    assert karpenter.failure is None
    assert all(karpenter.most[pools[hardware]] <= most for hardware, most in LIMITS.items())
