"""Two hosts that share nothing but a cable: network namespaces joined by a veth pair.

Each has a blob directory of its own. Processes are the ones that `tercet up` starts, with another address in
their configuration.
"""

import ctypes
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec
import pytest
import redis

from cli.redis_server import find_redis_server, redis_command
from orchestrator.serve import GatewayConfig
from stages.blob_files import hash_owner
from stages.blob_host import BlobConfig
from stages.orphans import die_with_parent
from stages.types import Stage
from tests.fakes.files import files_under
from tests.system.harness import INJECT, ROOT, until
from workers.config import WorkerConfig

T = TypeVar("T")

PREFIX = "tercet-test-"
API_PORT, REDIS_PORT, BLOB_PORT = 8080, 6379, 7070

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000


def require_root_and_ip() -> None:
    """Fail, not skip: whoever asks for these tests wants to know that two hosts work."""
    if not shutil.which("ip"):
        pytest.fail("there is no `ip` command; install it: apt-get install iproute2", pytrace=False)
    if os.geteuid() != 0:
        pytest.fail("network namespaces need root; run: sudo make test-netns", pytrace=False)


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


@dataclass
class Host:
    """One network namespace with a blob directory and processes."""

    name: str
    address: str
    folder: Path
    token: str
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.blob_dir = self.folder / "blobs"
        self.logs = self.folder / "logs"
        self.logs.mkdir(parents=True)
        self._inside = ThreadPoolExecutor(4, initializer=self._enter)

    def run(self, name: str, command: list[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start a process in this namespace; it dies with the tests."""
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *command],
                env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", **environment},
                cwd=ROOT,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
            )
        self.processes[name] = process
        return process

    def submit(self, function: Callable[..., T], *arguments: Any) -> "Future[T]":
        """Call a function from a thread that is on this host's network."""
        return self._inside.submit(function, *arguments)

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Do so and wait."""
        return self.submit(function, *arguments).result(timeout=100)

    def blobs(self, *, keeps: bool, **changes: Any) -> BlobConfig:
        """Return what a process of this host is told; one per host keeps the blobs. None is inlined."""
        where = f"{self.address}:{BLOB_PORT}"
        told = {"listen": where} if keeps else {"public_url": f"http://{where}"}
        config = {"directory": str(self.blob_dir), "inline_bytes": 0, "token": self.token}
        return BlobConfig(**{**config, **told, **changes})

    def holds(self, request_id: str) -> bool:
        """Whether the store has blobs of a request."""
        return (self.blob_dir / "owners" / hash_owner(request_id)).exists()

    def blob_count(self) -> int:
        return len(files_under(self.blob_dir / "owners"))

    def cable(self, state: str) -> None:
        """Plug the cable in (`up`) or out (`down`)."""
        ip("-n", self.name, "link", "set", CABLE, state)

    def received_bytes(self) -> int:
        """Return what has come in by the cable."""
        counter = Path(f"/sys/class/net/{CABLE}/statistics/rx_bytes")
        out = subprocess.run(
            ["ip", "netns", "exec", self.name, "cat", str(counter)],
            capture_output=True,
            text=True,
            check=True,
        )
        return int(out.stdout)

    def alive(self, name: str) -> bool:
        return name in self.processes and self.processes[name].poll() is None

    def stop(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait(10)

    def close(self) -> None:
        for name in list(self.processes):
            self.stop(name)
        self._inside.shutdown()

    def log_text(self) -> str:
        lines = [line for path in sorted(self.logs.glob("*.log")) for line in path.read_text().splitlines()]
        return "\n".join(line[:300] for line in lines if '"logger": "celery.' not in line)

    def _enter(self) -> None:
        with Path(f"/run/netns/{self.name}").open() as namespace:
            if _libc.setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"setns {self.name}")


CABLE = "cable"
"""Name of each host's end."""


@contextmanager
def two_hosts(folder: Path) -> Iterator[tuple[Host, Host]]:
    """Yield two hosts; whatever happens, their processes and namespaces go."""
    require_root_and_ip()
    remove_leftovers()
    names = [f"{PREFIX}{os.getpid()}-{side}" for side in "ab"]
    token = secrets.token_urlsafe(24)
    hosts: list[Host] = []
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", names[0], "link", "add", CABLE, "type", "veth", "peer", "name", CABLE, "netns", names[1])
        for number, name in enumerate(names, 1):
            ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", CABLE)
            ip("-n", name, "link", "set", CABLE, "up")
            hosts.append(Host(name, f"10.77.0.{number}", folder / name[-1], token))
        yield hosts[0], hosts[1]
    finally:
        for host in hosts:
            host.close()
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def remove_leftovers() -> None:
    """Delete the namespaces of tests that were killed; their processes died with them."""
    for entry in Path("/run/netns").glob(f"{PREFIX}*"):
        owner = entry.name.removeprefix(PREFIX).partition("-")[0]
        if not Path(f"/proc/{owner}").exists():
            subprocess.run(["ip", "netns", "delete", entry.name], capture_output=True)


@dataclass(frozen=True)
class Worker:
    """A worker to start; the rest is the same for all.

    Attributes:
        keeps: It keeps its host's blobs.
        token: Instead of the stack's own.
    """

    host: Host
    stage: Stage
    number: int
    keeps: bool = False
    domain: tuple[str, ...] = ()
    token: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.stage}-{self.number}"


class Stack:
    """Redis and a gateway on one host, workers on both."""

    def __init__(self, a: Host, b: Host, policy: str) -> None:
        self.a, self.b = a, b
        self._policy = policy
        self._policy_file = a.folder / "policy.yaml"
        self._policy_file.write_text(policy)
        self._workers: dict[str, Worker] = {}
        self._replica_ids: dict[str, str] = {}
        self._password = "p@ss:/word?" + secrets.token_urlsafe(8)
        quoted = "".join(f"%{ord(char):02X}" if char in "@:/?" else char for char in self._password)
        self.redis_url = f"redis://:{quoted}@{a.address}:{REDIS_PORT}/0"
        self.url = f"http://{a.address}:{API_PORT}"
        self._epochs = 0

    def start(self) -> None:
        data = self.a.folder / "redis"
        data.mkdir()
        command = redis_command(find_redis_server(), data / "redis.sock", data)
        command += ["--port", str(REDIS_PORT), "--bind", self.a.address, "--requirepass", self._password]
        self.a.run("redis", command, {})
        config = GatewayConfig(
            gateway_id=f"gateway.{self._epoch()}",
            host=self.a.address,
            port=API_PORT,
            metrics_port=0,
            redis_url=self.redis_url,
            policy_file=str(self._policy_file),
            blobs=self.a.blobs(keeps=True),
        )
        until("redis answers", lambda: self.a.call(self._pings))
        self._start(self.a, "gateway", "orchestrator", "TERCET_GATEWAY", config, {})

    def have(self, *workers: Worker) -> None:
        """Run these workers and no others, until the gateway knows exactly them."""
        for name, worker in list(self._workers.items()):
            if worker not in workers or not worker.host.alive(name):
                worker.host.stop(name)
                del self._workers[name]
        for worker in workers:
            if worker.name not in self._workers:
                self._start_worker(worker)
        wanted = {self._replica_ids[worker.name] for worker in workers}
        until(f"{len(workers)} workers are registered", lambda: self.registered() == wanted, 60.0)
        counts = {stage: sum(worker.stage is stage for worker in workers) for stage in Stage}
        until("the gateway knows them", lambda: self.ready().get("live_replicas") == counts)

    def ready(self) -> dict[str, Any]:
        """Return what `/ready` says, nothing if there is no answer."""
        try:
            return dict(self.a.call(lambda: httpx.get(f"{self.url}/ready", trust_env=False).json()))
        except httpx.TransportError:
            return {}

    def registered(self) -> set[str]:
        def ask() -> set[str]:
            with redis.Redis.from_url(self.redis_url, decode_responses=True) as client:
                return set(client.zrange("tercet:replicas", 0, -1))

        return self.a.call(ask)

    def post(self, body: Mapping[str, Any]) -> httpx.Response:
        url = f"{self.url}/v1/chat/completions"
        return self.a.call(lambda: httpx.post(url, json=body, timeout=60.0, trust_env=False))

    def stream(self, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> "Streaming":
        return Streaming(self.a, f"{self.url}/v1/chat/completions", {**body, "stream": True}, headers or {})

    @contextmanager
    def policy_with(self, section: str) -> Iterator[None]:
        """Add a section to the policy of the running gateway."""
        self._edit(f"{self._policy}\n{section}\n")
        yield
        self._edit(self._policy)

    def _edit(self, policy: str) -> None:
        log = self.a.logs / "gateway.log"
        taken = log.read_text().count("policy edit taken")
        self._policy_file.write_text(policy)
        until("the edit is taken", lambda: log.read_text().count("policy edit taken") > taken, 5.0)

    def decoded_by(self, response: httpx.Response) -> str:
        """Return the worker whose log has the request's decode."""
        assert response.status_code == 200, response.text
        hop = (response.json()["id"].removeprefix("chatcmpl-"), '"hop": "decode"')
        logs = [path for host in (self.a, self.b) for path in host.logs.glob("decode-*.log")]

        def found() -> list[str]:
            lines = [(path.stem, line) for path in logs for line in path.read_text().splitlines()]
            return [name for name, line in lines if all(part in line for part in hop)]

        return str(until("decode is logged", found)[0])

    def _start_worker(self, worker: Worker) -> None:
        config = WorkerConfig(
            name=worker.name,
            epoch=self._epoch(),
            stage=worker.stage,
            model="tiny",
            redis_url=self.redis_url,
            slots=8,
            blobs=worker.host.blobs(keeps=worker.keeps, token=worker.token or worker.host.token),
            domain=worker.domain,
        )
        self._workers[worker.name] = worker
        self._replica_ids[worker.name] = config.replica_id
        self._start(worker.host, worker.name, "workers", "TERCET_WORKER", config, worker.environment)

    def _pings(self) -> bool:
        try:
            with redis.Redis.from_url(self.redis_url) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    def _start(
        self, host: Host, name: str, module: str, variable: str, config: Any, environment: Mapping[str, str]
    ) -> None:
        told = {variable: msgspec.json.encode(config).decode()}
        host.run(name, [sys.executable, "-m", module], {**told, **environment})

    def _epoch(self) -> str:
        self._epochs += 1
        return f"{self._epochs}{secrets.token_hex(3)}"


class Streaming:
    """A streamed request in progress, read in the background."""

    def __init__(self, host: Host, url: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        self.pieces: list[str] = []
        self.error: dict[str, Any] = {}
        self.done = False
        self.request_id = ""
        self._ended = host.submit(self._read, url, body, headers)

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def wait(self, timeout_s: float) -> None:
        self._ended.result(timeout_s)

    def _read(self, url: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        with (
            httpx.Client(timeout=90.0, trust_env=False) as client,
            client.stream("POST", url, json=body, headers=headers) as response,
        ):
            for line in filter(None, response.iter_lines()):
                self._take(line.removeprefix("data: "))

    def _take(self, event: str) -> None:
        assert not self.done, "an event after [DONE]"
        self.done = event == "[DONE]"
        chunk = {} if self.done else json.loads(event)
        self.error = chunk.get("error", self.error)
        self.request_id = chunk.get("id", "").removeprefix("chatcmpl-") or self.request_id
        self.pieces += [choice["delta"].get("content") or "" for choice in chunk.get("choices", ())]


def slow_decode(seconds_per_token: float) -> dict[str, str]:
    """Return the environment that makes a worker's decode slow."""
    return {
        "PYTHONPATH": f"{INJECT}{os.pathsep}{ROOT}",
        "TERCET_TEST_SLOW": msgspec.json.encode({"decode": seconds_per_token}).decode(),
    }
