"""A stack by `pulumi up`, with processes in its pods' place: it serves, and follows edits of live fields.

They run on this machine, with the commands, the configuration and the accounts that their pods have.
"""

import json
import os
import signal
import subprocess
import sys

import httpx
import pytest
from kubernetes import client

from infra.objects import controller, publisher
from orchestrator.kube_names import DOMAIN, POLICY_FILE, STAGE
from stages.emulator.config import Role
from stages.free_ports import free_port
from stages.types import Stage
from tests.cluster.conftest import api, until
from tests.cluster.objects import is_ready
from tests.cluster.raw import kubeconfig_of, token_of
from tests.cluster.workbench import Bench
from tests.fakes.emulator import emulated_epd
from tests.fakes.redis_process import RedisProcess
from tests.infra.kit import ROOT, expanded, named
from tests.system.harness import digit_question, question

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

SERVICE = "small"
STAGES = [stage.value for stage in Stage]
KNOWN = {"POD_NAME": "pod-1", "POD_IP": "127.0.0.1", "REDIS_PASSWORD": "sesame", "BLOB_TOKEN": "open"}
KEY = "open-sesame-open-sesame"
LIVE_S = 20.0
"""Ample: the processes look every second or two, the controller decides every five, and machines are busy."""


class Stand:
    """A stack with its three processes."""

    def __init__(self, bench, cluster, core, redis, folder):
        self.bench, self._core, self._redis, self._folder = bench, core, redis, folder
        self._kubeconfig = lambda account: kubeconfig_of(
            cluster, token_of(core, account, bench.name), self._within(account)
        )
        self.url = f"http://127.0.0.1:{free_port()}"
        self.engines = {}
        self._processes = {}

    def start(self):
        policy = self.mount()
        for account in (publisher.NAME, controller.NAME):
            container = self._container(account)
            self._run(
                account,
                [sys.executable, "-m", "cli", *container["command"][1:]],
                [text.replace(f"/etc/tercet/policies/{SERVICE}", str(policy)) for text in container["args"]],
                [f"--kubeconfig={self._kubeconfig(account)}"],
                TERCET_REDIS_URL=self._redis.url,
                TERCET_NAMESPACE=self.bench.name,
            )
        (policy / "keys.yaml").write_text(f"- {{name: test, key: {KEY}}}")
        config = json.loads(expanded(self._container(f"{SERVICE}-gateway"), "TERCET_GATEWAY", KNOWN))
        here = self._within("gateway")
        config |= {"redis_url": self._redis.url, "metrics_port": 0, "host": "127.0.0.1"}
        config |= {"port": int(self.url.rpartition(":")[2]), "policy_kept": str(here / "kept.json")}
        config |= {"policy_file": str(policy / POLICY_FILE), "keys_file": str(policy / "keys.yaml")}
        config["blobs"] |= {"directory": str(here / "blobs"), "listen": f"127.0.0.1:{free_port()}"}
        (here / "blobs").mkdir()
        command = [sys.executable, "-m", "orchestrator"]
        self._run("gateway", command, TERCET_GATEWAY=json.dumps(config))

    def pods(self):
        """Return the replicas' pods that are ready, as far as KWOK pretends."""
        found = self._core.list_namespaced_pod(self.bench.name, label_selector=STAGE).items
        return [pod for pod in found if is_ready(pod)]

    def work(self, pod):
        """Start the worker that a pod would run, under the pod's name."""
        name, told = pod.metadata.name, pod.metadata.annotations[DOMAIN]
        container = self._container(name.rsplit("-", 2)[0])
        here = self._within(name)
        known = KNOWN | self._rollout(container) | {"POD_NAME": name, "DOMAIN": told}
        config = json.loads(expanded(container, "TERCET_WORKER", known)) | {"redis_url": self._redis.url}
        config["blobs"] |= {"directory": str(here / "blobs"), "listen": f"127.0.0.1:{free_port()}"}
        (here / "blobs").mkdir()
        if self.engines:  # the container beside the worker, which has the pod's loopback
            config["server"]["url"] = self.engines[config["stage"]]
        command = [sys.executable, *container["command"][1:]]
        self._run(name, command, TERCET_WORKER=json.dumps(config))

    def _rollout(self, container):
        """Return what the ConfigMap has that the pods of a stage name."""
        (name,) = {
            entry["valueFrom"]["configMapKeyRef"]["name"]
            for entry in container["env"]
            if "configMapKeyRef" in entry.get("valueFrom", {})
        }
        return self._core.read_namespaced_config_map(name, self.bench.name).data

    def mount(self):
        """Lay the policy out as it is now: kubelets do it once, and again after a minute or so."""
        folder = self._within("policy")
        for name, text in named(self.bench.objects(), "ConfigMap", f"{SERVICE}-policy")["data"].items():
            (folder / name).write_text(text)
        return folder

    def stop(self):
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        ended = {name: process.wait(30) for name, process in self._processes.items()}
        assert set(ended.values()) <= {0}, {name: self.log(name) for name in ended}

    def log(self, name):
        return (self._folder / f"{name}.log").read_text()

    def messages(self, name):
        lines = [json.loads(line) for line in self.log(name).splitlines() if line.startswith("{")]
        return [line["message"] for line in lines]

    def refuses_5_kb(self):
        """Whether the gateway does; None while it does not answer."""
        answer = self._ask(question("x" * 5_000, model="tiny"))
        return answer and answer.status_code == 413

    def answers(self):
        """Whether a question with an image gets its answer."""
        answer = self._ask(digit_question(0))
        return answer and answer.is_success and answer.json()["choices"][0]["message"]["content"]

    def _ask(self, body):
        headers = {"Authorization": f"Bearer {KEY}"}
        try:
            return httpx.post(f"{self.url}/v1/chat/completions", json=body, headers=headers, trust_env=False)
        except httpx.TransportError:
            return None

    def _container(self, deployment):
        found = named(self.bench.objects(), "Deployment", deployment)
        return found["spec"]["template"]["spec"]["containers"][0]

    def _within(self, name):
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def _run(self, name, *command, **environment):
        arguments = [each for part in command for each in part]
        with (self._folder / f"{name}.log").open("wb") as output:
            self._processes[name] = subprocess.Popen(
                arguments, cwd=ROOT, env={**os.environ, **environment}, stdout=output, stderr=output
            )


@pytest.fixture(params=["live"])
def bench(request, cluster, pulumi_cli, tmp_path):
    """A stack in a namespace of its own."""
    made = Bench(folder=tmp_path, kubeconfig=cluster.kubeconfig, cli=pulumi_cli, name=request.param)
    made.config["tercet:node_pools"] = {
        "cpu": {"hardware": "cpu", "accelerators": 16, "simulated": {"nodes": 2}}
    }
    return made


def on_processors(engine):
    # Each of its own: YAML writes what is shared as an alias, which policy files may not have.
    return {
        f"stages__{name}": {"engine": engine, "hardware": ["cpu"], "batch": 8, "max": 4} for name in STAGES
    }


def serve(bench, *, decode=1, engine="tiny", **edits):
    scaling = {"policy": "static", "params": dict.fromkeys(STAGES, 1) | {"decode": decode}}
    stages = on_processors(engine)
    bench.serve(SERVICE, **stages, model={"name": "tiny", "kappa": 1}, scaling=scaling, **edits)


@pytest.fixture
def stand(bench, cluster, core, tmp_path):
    """The stack is up, its gateway answers, its stages have one pod each; one named vllm has that engine."""
    serve(bench, engine="vllm" if bench.name == "vllm" else "tiny")
    bench.up()
    with RedisProcess(tmp_path) as redis:
        running = Stand(bench, cluster, core, redis, tmp_path)
        running.start()
        yield running
        running.stop()


def test_live_edits_arrive_without_a_restart_and_bad_ones_do_not(stand, bench, cluster):
    apps = client.AppsV1Api(api(cluster))
    core = client.CoreV1Api(api(cluster))

    def counts():
        found = apps.list_namespaced_deployment(bench.name, label_selector="tercet.dev/stage").items
        return {each.metadata.name.split("-")[1]: each.spec.replicas for each in found}

    def templates():
        found = apps.list_namespaced_deployment(bench.name).items
        return {each.metadata.name: each.spec.template.to_dict() for each in found}

    until(lambda: counts() == dict.fromkeys(STAGES, 1) and stand.refuses_5_kb() is False, 60.0)
    before = templates()

    serve(bench, decode=2, admission={"limits": {"body_mb": 0.001}})
    assert bench.up() == {f"{bench.name}/{SERVICE}-policy": "update"}
    until(lambda: stand.refuses_5_kb() and counts()["decode"] == 2, LIVE_S)
    assert templates() == before

    # By hand, as `pulumi up` would refuse it: nobody takes it, and what comes after it is taken.
    edit = {"data": {POLICY_FILE: json.dumps({"service": SERVICE})}}
    core.patch_namespaced_config_map(f"{SERVICE}-policy", bench.name, edit)
    until(lambda: any("not published" in each for each in stand.messages(publisher.NAME)), LIVE_S)
    mended = named(bench.objects(), "ConfigMap", f"{SERVICE}-policy")["data"]
    mended[POLICY_FILE] = mended[POLICY_FILE].replace('"body_mb": 0.001', '"body_mb": 16')
    assert stand.refuses_5_kb()
    core.patch_namespaced_config_map(f"{SERVICE}-policy", bench.name, {"data": mended})
    until(lambda: stand.refuses_5_kb() is False, LIVE_S)
    assert counts()["decode"] == 2
    assert "policy edit not taken" not in stand.log(controller.NAME)


@pytest.mark.parametrize("bench", ["served"], indirect=True)
def test_a_request_is_served_by_processes_under_the_names_of_the_cluster_s_pods(stand, bench):
    """The controller made those pods and hears the processes: a silent replica would hold decode at two."""
    serve(bench, decode=2)
    bench.up()
    until(lambda: len(stand.pods()) == 4, 60.0)
    for pod in stand.pods():
        stand.work(pod)
    until(stand.answers, 60.0)

    serve(bench, decode=1)
    bench.up()
    until(lambda: len(stand.pods()) == 3, 60.0)
    until(stand.answers)


@pytest.mark.parametrize("bench", ["vllm"], indirect=True)
def test_workers_of_vllm_pods_drive_the_engine_that_they_are_told_of(stand, tmp_path):
    """Emulated engines in the place of the pods' second containers."""
    until(lambda: len(stand.pods()) == 3 and all(len(pod.spec.containers) == 2 for pod in stand.pods()), 60.0)
    with emulated_epd(tmp_path / "embeddings", model="tiny", max_model_len=1024) as engines:
        stand.engines = {stage: engines[Role(stage)].url for stage in STAGES}
        for pod in stand.pods():
            stand.work(pod)
        until(stand.answers, 60.0)
        stand.stop()  # before the engines: a worker that loses its own ends with an error
