"""vLLM servers on this processor, and what they say of themselves."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from localengine.servers import ServerCommand
from stages.orphans import die_with_parent
from stages.types import Stage
from tests.system.harness import System, until
from tests.system.served import CHAT

START_S = 240.0
"""Four servers at once are up in a quarter of this on two quiet cores."""


@dataclass(frozen=True)
class Server:
    """One vLLM server."""

    url: str

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=5.0, trust_env=False, verify=False)

    def healthy(self) -> bool:
        try:
            return self.get("/health").status_code == 200
        except httpx.TransportError:
            return False

    def chat(self, body: Mapping[str, Any]) -> Any:
        answer = httpx.post(self.url + CHAT, json=body, timeout=60.0, trust_env=False, verify=False)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def metric(self, name: str, **labels: str) -> float:
        """Return a sample of /metrics, 0 if there is none yet."""
        samples = (
            sample
            for family in text_string_to_metric_families(self.get("/metrics").text)
            for sample in family.samples
        )
        wanted = labels.items()
        return sum(s.value for s in samples if s.name == name and wanted <= s.labels.items())

    def idle(self) -> bool:
        """Whether it works on nothing and holds KV for nobody."""
        names = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
        return not any(self.metric(name) for name in names)


@contextmanager
def running(server: ServerCommand, log: Path) -> Iterator[Server]:
    """Run a server until the block ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(server.command),
            env={**os.environ, **server.environment},
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(signal.SIGTERM),
        )
    try:
        yield Server(server.url)
    finally:
        process.terminate()
        process.wait(30)


def server(system: System, stage: Stage, number: int = 0) -> Server:
    """Return a stage's server behind a running system."""
    return Server(system.supervisor()["engines"][stage][number])


def engine_of(stage: Stage) -> int:
    """Return which of the system's engine processes is a stage's, with one of each."""
    return tuple(Stage).index(stage)


def until_idle(system: System) -> None:
    """Wait until no server works on anything or holds KV for anybody."""
    for stage in Stage:
        until(f"{stage} is idle", server(system, stage).idle, 45.0)
