"""The loop closed on a real control plane, over a stack by `pulumi up`: three stages follow the load."""

import json

import pytest

from infra.objects.controller import NAME
from orchestrator.kube_names import DOMAIN, GROUP, STAGE
from stages.types import Stage
from tests.cluster.loop import (
    MODEL,
    controller_flags,
    controlling,
    decisions,
    ready,
    serve_until,
    write_policy,
)
from tests.cluster.objects import LEVELS, Api, is_ready
from tests.cluster.raw import kubeconfig_of, token_of
from tests.cluster.traffic import Traffic
from tests.cluster.workbench import Bench
from tests.fakes.redis_process import RedisProcess

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]


@pytest.fixture
def stack(cluster, pulumi_cli, tmp_path):
    """The service, and 6 racks of 4 nodes of either hardware."""
    bench = Bench(folder=tmp_path, kubeconfig=cluster.kubeconfig, cli=pulumi_cli, name="loop")
    domains = zip(LEVELS, (2, 1, 3), strict=True)
    nodes = {"nodes": 24, "spread": [{"level": level, "domains": count} for level, count in domains]}
    bench.config["tercet:node_pools"] = {
        name: {"hardware": name, "simulated": nodes} for name in ("h100", "a100")
    }
    bench.config["tercet:services"] = {"loop": {"policy": str(write_policy(tmp_path))}}
    bench.config["tercet:broker"] = {"shards": 2}
    bench.up()
    return bench


@pytest.fixture
def api(cluster, stack):
    with Api(cluster.kubeconfig, stack.name) as api:
        yield api


@pytest.fixture
def redis(tmp_path):
    with RedisProcess(tmp_path) as redis:
        yield redis


@pytest.fixture
def controller(cluster, api, redis, tmp_path_factory, tmp_path):
    """With the account that the stack has for it, of two shards; the service is on the second."""
    kubeconfig = kubeconfig_of(cluster, token_of(api.core, NAME, api.namespace), tmp_path)
    with RedisProcess(tmp_path_factory.mktemp("shard")) as other:
        flags = controller_flags(api, tmp_path / "loop.yaml", kubeconfig, [other, redis])
        with controlling(flags, tmp_path / "controller.log") as log:
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
