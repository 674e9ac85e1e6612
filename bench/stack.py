"""Tercet's own processes for a benchmark: redis-server, workers and, if wanted, a gateway."""

import contextlib
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import redis

from bench.processes import ROOT, Processes, wait_until
from cli.redis_server import find_redis_server, redis_command
from orchestrator.serve import GatewayConfig
from stages.blob_host import BlobConfig
from stages.blobs import default_dir
from stages.free_ports import free_port
from stages.limits import EngineLimits
from stages.types import Stage
from workers.config import WorkerConfig


@dataclass(frozen=True, slots=True)
class Stack:
    """A running system."""

    processes: Processes
    folder: Path
    redis_url: str
    port: int
    blobs: BlobConfig

    def redis(self) -> redis.Redis:
        """Return a client."""
        return redis.Redis.from_url(self.redis_url)

    def start_worker(
        self, name: str, stage: Stage, model: str, slots: int, module: str, environment: Mapping[str, str]
    ) -> None:
        """Start one replica."""
        config = WorkerConfig(
            name=name,
            epoch=f"{time.time_ns():x}",
            stage=stage,
            model=model,
            redis_url=self.redis_url,
            slots=slots,
            blobs=self.blobs,
            limits=EngineLimits(max_batch=slots),
        )
        self.processes.python(name, module, TERCET_WORKER=msgspec.json.encode(config).decode(), **environment)

    def start_gateway(self, policy_file: Path) -> None:
        """Start the gateway."""
        config = GatewayConfig(
            gateway_id=f"gateway-0.{time.time_ns():x}",
            host="127.0.0.1",
            port=self.port,
            metrics_port=0,
            redis_url=self.redis_url,
            policy_file=str(policy_file),
            blobs=self.blobs,
        )
        self.processes.python("gateway", "orchestrator", TERCET_GATEWAY=msgspec.json.encode(config).decode())
        wait_until("the gateway is ready", self._ready)

    def wait_registered(self, replicas: int) -> None:
        """Wait until so many have registered."""
        client = self.redis()
        wait_until(
            f"{replicas} replicas",
            lambda: self.processes.pids() and client.zcard("tercet:replicas") >= replicas,
        )

    def _ready(self) -> bool:
        self.processes.pid("gateway")
        with contextlib.suppress(OSError):
            return bool(
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ready", timeout=2).status == 200
            )
        return False


@contextlib.contextmanager
def stack(
    model: str,
    *,
    slots: int = 64,
    replicas: Mapping[Stage, int] | None = None,
    policy: Path | None = None,
    modules: Mapping[Stage, str] | None = None,
    environment: Mapping[str, str] | None = None,
    gateway: bool = True,
) -> Iterator[Stack]:
    """Run a system.

    Args:
        model: A built-in model.
        slots: Of each replica.
        replicas: Of each stage, one by default; their processes are `encode-0` and so on.
        policy: Policy file; the model's own by default.
        modules: What to run in place of `workers`, by stage.
        environment: Added to the workers'.
        gateway: Whether to start the HTTP gateway too.
    """
    port = free_port()
    blob_dir = default_dir(f"bench-{port}")
    with tempfile.TemporaryDirectory(prefix="tercet-bench-") as folder, Processes(Path(folder)) as processes:
        running = Stack(
            processes,
            Path(folder),
            f"unix://{folder}/redis.sock",
            port,
            BlobConfig(directory=str(blob_dir)),
        )
        try:
            start_redis(processes, Path(folder))
            counts = replicas or dict.fromkeys(Stage, 1)
            for stage in Stage:
                module = (modules or {}).get(stage, "workers")
                for index in range(counts[stage]):
                    running.start_worker(f"{stage}-{index}", stage, model, slots, module, environment or {})
            running.wait_registered(sum(counts.values()))
            if gateway:
                running.start_gateway(policy or ROOT / "policies" / f"{model}.yaml")
            yield running
        finally:
            shutil.rmtree(blob_dir, ignore_errors=True)


def start_redis(processes: Processes, folder: Path) -> None:
    """Start redis-server as `tercet up` does, on `redis.sock` in the folder."""
    socket_file = folder / "redis.sock"
    (folder / "redis").mkdir()
    processes.start("redis", redis_command(find_redis_server(), socket_file, folder / "redis"))
    client = redis.Redis(unix_socket_path=str(socket_file))

    def answers() -> bool:
        with contextlib.suppress(redis.ConnectionError):
            return bool(client.ping())
        return False

    wait_until("redis-server answers", answers)
