"""The container image. None is built here: what it is made of, and what its pods would run, is checked."""

import os
import subprocess
import sys
import sysconfig
import tomllib
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from infra.objects.names import object_name
from infra.objects.pods import pod_security
from stages.free_ports import free_port
from tests.fakes.redis_process import RedisProcess
from tests.infra.image import copied, ignored, instructions, lay_context
from tests.infra.kit import ROOT, expanded, named, stack_of
from tests.system.harness import digit_question, until

EPOCH = "1700000000"
KNOWN = {"REDIS_PASSWORD": "sesame", "BLOB_TOKEN": "open"}


def values(instruction):
    return [rest for name, rest in instructions() if name == instruction]


def test_everything_that_is_copied_is_there_and_not_ignored():
    sources = [source for source, _ in copied()]
    assert len(sources) > 10
    assert [source for source in sources if not (ROOT / source).exists() or ignored(source)] == []


def test_every_package_of_the_distribution_is_copied():
    """And what its metadata names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    files = [project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml"]
    wanted = {package.removesuffix("*") for package in packages} | set(files)
    assert wanted <= {source for source, _ in copied()}


def test_it_is_pinned_and_runs_as_the_pods_say():
    """Bases by digest without a default, dependencies by hash, the pods' user."""
    bases = [rest.split()[0] for rest in values("FROM")]
    assert len(bases) == 2
    assert all(base.endswith("@${PYTHON_DIGEST}") for base in bases)
    assert "PYTHON_DIGEST" in values("ARG")
    assert any("--require-hashes" in each for each in values("RUN"))
    security = pod_security()
    assert values("USER") == [f"{security['runAsUser']}:{security['runAsGroup']}"]


def wheel(context):
    """Build the wheel as the Dockerfile does."""
    folder = context.parent / f"{context.name}-wheels"
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-cache-dir", "--no-deps"]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH}
    subprocess.run(
        [*command, "--no-build-isolation", "--wheel-dir", folder, "."],
        cwd=context,
        env=environment,
        check=True,
    )
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Two of the same sources."""
    made = []
    for name in ("one", "two"):
        context = tmp_path_factory.mktemp("image") / name
        context.mkdir()
        lay_context(context)
        made.append(wheel(context))
    return made


@pytest.fixture(scope="module")
def installed(wheels, tmp_path_factory):
    """A fresh environment with the wheel; its dependencies are those of this one, from the same lock."""
    folder = tmp_path_factory.mktemp("opt") / "tercet"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin/python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-compile"]
    subprocess.run([*pip, wheels[0]], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    # A path in such a file is no site folder: this environment's link to the work tree does not come along.
    (folder / "lib" / version / "site-packages/deps.pth").write_text(sysconfig.get_path("purelib"))
    return folder


def run(installed, command, cwd, **environment):
    path = f"{installed / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(command, cwd=cwd, env={"PATH": path, "HOME": str(cwd), **environment})


@pytest.mark.slow
def test_equal_sources_make_equal_wheels(wheels):
    one, two = (sha256(each.read_bytes()).hexdigest() for each in wheels)
    assert one == two


@pytest.mark.slow
@pytest.mark.parametrize("command", [("tercet", "--help"), ("tercet", "controller", "--help")])
def test_the_entry_points_start(installed, tmp_path, command):
    """From the wheel and nothing of the work tree."""
    assert run(installed, command, tmp_path).wait(60) == 0
    where = "import orchestrator; print(orchestrator.__file__)"
    # Isolated: a PYTHONPATH of whoever runs the tests would name the work tree.
    found = subprocess.run(
        [installed / "bin/python", "-I", "-c", where], stdout=subprocess.PIPE, text=True, check=True
    )
    assert Path(found.stdout).is_relative_to(installed)


class Pods:
    """Pods of a stack as processes of this machine: their commands, their environment, other places.

    Each has an address of its own in 127.0.0.0/8, as pods do.
    """

    def __init__(self, installed, folder, redis):
        self._installed, self._folder = installed, folder
        self.port = free_port()
        self._elsewhere = {
            "redis://:sesame@redis:6379/0": redis.url,
            '"port": 8080': f'"port": {self.port}',
            '"metrics_port": 9090': f'"metrics_port": {free_port()}',
            "/etc/tercet": str(folder / "etc"),
        }
        self._processes = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(30)

    def mount(self, path, files):
        folder = self._folder / "etc" / path
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).write_text(text)

    def start(self, deployment, variable, **known):
        name = f"pod-{len(self._processes)}"
        facts = {"POD_NAME": name, "POD_IP": f"127.0.0.{len(self._processes) + 2}", "DOMAIN": "[]"}
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        text = expanded(container, variable, KNOWN | facts | known)
        folder = self._folder / name
        for old, new in {**self._elsewhere, "/run/tercet": str(folder)}.items():
            text = text.replace(old, new)
        for each in ("blobs", "kept"):
            (folder / each).mkdir(parents=True)
        process = run(self._installed, container["command"], folder, **{variable: text})
        self._processes.append(process)


@pytest.mark.slow
def test_the_pods_of_a_stack_serve_a_request_from_the_image(installed, tmp_path):
    """Commands, configuration and files are those of the objects; addresses and folders this machine's."""
    stack = stack_of("policies/tiny.yaml", autoscaler="none")
    objects = list(stack.objects())
    with RedisProcess(tmp_path) as redis, Pods(installed, tmp_path, redis) as pods:
        pods.mount("policy", named(objects, "ConfigMap", object_name("tiny", "policy"))["data"])
        pods.mount("keys", {"keys.yaml": "- {name: test, key: open-sesame-open-sesame}"})
        pods.start(named(objects, "Deployment", "tiny-gateway"), "TERCET_GATEWAY")
        for stage in ("encode", "prefill", "decode"):
            pool = named(objects, "Deployment", f"tiny-{stage}-cpu")
            worker = pool["spec"]["template"]["spec"]["containers"][0]
            model = next(entry for entry in worker["env"] if entry["name"] == "MODEL")
            rollout = model["valueFrom"]["configMapKeyRef"]["name"]
            pods.start(pool, "TERCET_WORKER", **named(objects, "ConfigMap", rollout)["data"])
        url = f"http://127.0.0.1:{pods.port}"
        with httpx.Client(base_url=url, timeout=30, verify=False, trust_env=False) as client:
            until("the gateway is ready", lambda: answers(client, "/ready"))
            until("a request is served", lambda: served(client), 60)


def answers(client, path):
    try:
        return client.get(path).status_code == 200
    except httpx.TransportError:
        return False


def served(client):
    headers = {"Authorization": "Bearer open-sesame-open-sesame"}
    answer = client.post("/v1/chat/completions", json=digit_question(0), headers=headers)
    return answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"]
