"""The loop closed on a real control plane: three stages follow the load together, near each other."""

import json

import pytest

from cli.cluster_nodes import add_nodes
from orchestrator.kube_names import DOMAIN, GROUP, STAGE
from orchestrator.simulator.fleet_spec import parse_fleet
from stages.types import Stage
from tests.cluster.loop import MODEL, decisions, ready, running_controller, serve_until
from tests.cluster.objects import LEVELS, Api, is_ready
from tests.cluster.traffic import Traffic
from tests.fakes.redis_process import RedisProcess

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def fleet(cluster):
    add_nodes(cluster.kubeconfig, parse_fleet("h100=24x8,a100=24x8", LEVELS), LEVELS)
    return cluster


@pytest.fixture
def api(fleet):
    with Api(fleet.kubeconfig) as api:
        yield api


@pytest.fixture
def redis(tmp_path):
    with RedisProcess(tmp_path) as redis:
        yield redis


@pytest.fixture
def controller(cluster, api, redis, tmp_path_factory, tmp_path):
    """Of two shards; the service is on the second."""
    with (
        RedisProcess(tmp_path_factory.mktemp("shard")) as other,
        running_controller(cluster, api, [other, redis], tmp_path) as log,
    ):
        yield log


def test_three_stages_follow_the_load_together_and_near_each_other(api, redis, controller):
    traffic = Traffic(redis.url, api, MODEL)
    one_each = dict.fromkeys(Stage, 1)
    serve_until(traffic, "one replica of each stage", lambda: ready(api) == one_each, controller)

    traffic.rate = 30.0
    grown = lambda: all(count >= 2 for count in ready(api).values())  # noqa: E731
    serve_until(traffic, "every stage has grown", grown, controller)
    need = {stage: plan[1] for stage, plan in decisions(controller)[-1]["reasons"]["loop"].items()}
    assert need[Stage.ENCODE] > need[Stage.PREFILL] > need[Stage.DECODE] > 1.0, "two images, short answers"
    racks = {}
    for pod in filter(is_ready, api.pods()):
        if Stage(pod.metadata.labels[STAGE]) is not Stage.ENCODE:
            racks.setdefault(pod.metadata.labels[GROUP], set()).add(api.rack_of(pod.spec.node_name))
            assert tuple(json.loads(pod.metadata.annotations[DOMAIN])) == api.rack_of(pod.spec.node_name)
    assert racks
    assert all(len(found) == 1 for found in racks.values()), "prefill and decode of a group share a rack"

    peak, traffic.rate = ready(api), 0.2
    # All the way takes longer: how bursty the work was is remembered for a quarter of an hour.
    shrunk = lambda: all(2 * count <= peak[stage] for stage, count in ready(api).items())  # noqa: E731
    serve_until(traffic, "every stage has shrunk to half", shrunk, controller)
    assert not [pod for pod in api.pods() if pod.spec.scheduling_gates]
