"""The controller as a process on a real control plane, and traffic that it answers."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

from infra.objects.controller import NAME, ControllerArgs, controller_objects
from infra.objects.names import object_name
from infra.shared_config import BrokerConfig
from orchestrator.core.pools import Pool
from orchestrator.kube_names import STAGE
from stages.types import Stage
from tests.cluster.objects import LEVELS, is_ready
from tests.cluster.raw import Raw, kubeconfig_of, token_of
from tests.system.harness import ROOT

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


@contextmanager
def running_controller(cluster, api, shards, folder, *, karpenter=False, annotations=None):
    """Run a controller with its own account; yield its log. Its pools are there before it."""
    add_pools(api, annotations=annotations)
    kubeconfig = account_of_controller(cluster, api, folder, karpenter=karpenter)
    flags = controller_flags(api, write_policy(folder), kubeconfig, shards) + ["--karpenter"] * karpenter
    with controlling(flags, folder / "controller.log") as log:
        yield log


def write_policy(folder):
    file = folder / "loop.yaml"
    file.write_text(POLICY)
    return file


def controller_flags(api, policy, kubeconfig, shards):
    options = {"policy": policy, "namespace": api.namespace, "kubeconfig": kubeconfig}
    return [f"--{name}={value}" for name, value in options.items()] + [
        f"--redis-url={redis.url}" for redis in shards
    ]


def add_pools(api, *, annotations=None):
    for (stage, hardware), tp in POOLS.items():
        api.pool(Pool("loop", stage, hardware), tp, annotations=annotations)


@contextmanager
def controlling(flags, log, environment=None):
    """Run `tercet controller`; yield its log."""
    command = [sys.executable, "-m", "cli", "controller", *flags]
    variables = {**os.environ, **(environment or {})}
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, env=variables)
    yield log
    assert process.poll() is None, log.read_text()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20.0) == 0, log.read_text()


def account_of_controller(cluster, api, folder, **more):
    """Create the controller's account with what it may do; return a kubeconfig with its token."""
    return account_for(cluster, api, folder, controller_args(api, **more))


def account_for(cluster, api, folder, args):
    with Raw(cluster) as raw:
        for thing in controller_objects(args):
            if thing["kind"] != "Deployment":
                assert raw.create(thing).is_success
    return kubeconfig_of(cluster, token_of(api.core, NAME, api.namespace), folder)


def controller_args(api, **more):
    pools = tuple(object_name("loop", stage, hardware) for stage, hardware in POOLS)
    about = {"namespace": api.namespace, "services": ("loop",), "pools": pools, "image": "none"}
    return ControllerArgs(**about, broker=BrokerConfig(), **more)


def ready(api):
    found = dict.fromkeys(Stage, 0)
    for pod in filter(is_ready, api.pods()):
        found[Stage(pod.metadata.labels[STAGE])] += 1
    return found


def serve_until(traffic, what, condition, log, timeout_s=100.0):
    """Let traffic pass until something is seen."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, f"not seen: {what}\n{ready(traffic.api)}\n{log.read_text()[-6000:]}"
        traffic.step()
        time.sleep(0.25)


def decisions(log):
    return logged(log, "decision")


def logged(log, message):
    """Return the lines of a log that say something, oldest first."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["message"] == message]
