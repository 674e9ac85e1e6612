"""The loop closed on a real control plane: three stages follow the load together, near each other."""

import json
import signal
import subprocess
import sys
import time

import pytest

from cli.cluster_nodes import add_nodes
from infra.objects.controller import NAME, ControllerArgs, controller_objects
from infra.shared_config import BrokerConfig
from orchestrator.core.pools import Pool
from orchestrator.kube_names import DOMAIN, GROUP, STAGE
from orchestrator.simulator.fleet_spec import parse_fleet
from stages.types import Stage
from tests.cluster.objects import LEVELS, Api, is_ready
from tests.cluster.raw import Raw, kubeconfig_of, token_of
from tests.cluster.traffic import Traffic
from tests.fakes.redis_process import RedisProcess
from tests.system.harness import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

POOLS = {(Stage.ENCODE, "a100"): 1, (Stage.PREFILL, "h100"): 4, (Stage.DECODE, "h100"): 4}
MODEL = "OpenGVLab/InternVL2_5-26B"
POLICY = f"""
apiVersion: tercet/v1
service: loop
model: {{name: {MODEL}, kappa: 1}}
stages:
  encode:  {{engine: vllm, hardware: [a100], tp: 1, batch: 1,  min: 1, max: 32, budget_s: 0.6}}
  prefill: {{engine: vllm, hardware: [h100], tp: 4, batch: 8,  min: 1, max: 16, budget_s: 0.5}}
  decode:  {{engine: vllm, hardware: [h100], tp: 4, batch: 96, min: 1, max: 16}}
scaling:
  policy: coupled
  # Minutes become seconds, or the test would take an hour.
  params: {{period_s: 5, cooldown_out_s: 5, encode_cooldown_out_s: 5, cooldown_in_s: 10, settle_s: 10}}
topology: {{levels: [{", ".join(LEVELS)}], edges: {{prefill-decode: {LEVELS[-1]}}}}}
"""


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
def other_shard(tmp_path_factory):
    with RedisProcess(tmp_path_factory.mktemp("shard")) as redis:
        yield redis


@pytest.fixture
def controller(cluster, api, redis, other_shard, tmp_path):
    """The controller of two shards with its own account, and its log; its pools are there before it."""
    for (stage, hardware), tp in POOLS.items():
        api.pool(Pool("loop", stage, hardware), tp)
    policy, log = tmp_path / "loop.yaml", tmp_path / "controller.log"
    policy.write_text(POLICY)
    options = {"policy": policy, "namespace": api.namespace}
    options["kubeconfig"] = account_of_controller(cluster, api, tmp_path)
    flags = [f"--{name}={value}" for name, value in options.items()]
    flags += [f"--redis-url={shard.url}" for shard in (other_shard, redis)]
    command = [sys.executable, "-m", "cli", "controller", *flags]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    yield log
    assert process.poll() is None, log.read_text()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20.0) == 0, log.read_text()


def account_of_controller(cluster, api, folder):
    """Create the controller's account with what it may do; return a kubeconfig with its token."""
    args = ControllerArgs(namespace=api.namespace, services=("loop",), image="none", broker=BrokerConfig())
    with Raw(cluster) as raw:
        for thing in controller_objects(args):
            if thing["kind"] != "Deployment":
                assert raw.create(thing).is_success
    return kubeconfig_of(cluster, token_of(api.core, NAME, api.namespace), folder)


def ready(api):
    found = dict.fromkeys(Stage, 0)
    for pod in filter(is_ready, api.pods()):
        found[Stage(pod.metadata.labels[STAGE])] += 1
    return found


def serve_until(traffic, what, condition, log, timeout_s=100.0):
    """Let traffic pass until something is seen."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, f"not seen: {what}\n{ready(traffic._api)}\n{log.read_text()[-6000:]}"
        traffic.step()
        time.sleep(0.25)


def decisions(log):
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["message"] == "decision"]


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
