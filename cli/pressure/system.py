"""The system under pressure: its address, and the processes whose processor time is counted."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.profiles.pressure import CLIENT
from stages.types import Stage

_START_S = 60.0


class NoSystemError(RuntimeError):
    """There is nothing to measure; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A running system on this machine.

    Attributes:
        state: Its state folder.
    """

    port: int
    state: Path

    def facts(self) -> Mapping[str, Any]:
        """Return what the supervisor says of it.

        Raises:
            NoSystemError: It says nothing.
        """
        try:
            return dict(json.loads((self.state / "supervisor.json").read_text()))
        except (OSError, ValueError):
            raise NoSystemError(
                f"no system keeps its state in {self.state}; start one with `tercet up`"
            ) from None

    def pids(self) -> dict[str, int]:
        """Return the ids of its processes by name."""
        return {each["name"]: each["pid"] for each in self.facts()["processes"] if each["pid"]}

    def replicas(self) -> dict[Stage, int]:
        """Return how many replicas each stage has."""
        kinds = [each["kind"] for each in self.facts()["processes"]]
        return {stage: kinds.count(stage) for stage in Stage}

    def hops(self) -> dict[str, int]:
        """Return how many hops each replica has been through, from its log."""
        logs = {name: self.state / "logs" / f"{name}.log" for name in self.pids() if "-" in name}
        return {name: hops_in(log.read_text(errors="replace")) for name, log in logs.items()}


def hops_in(log: str) -> int:
    """Return how many hops the log of a worker tells of."""
    return log.count('"message": "hop"')


class CpuMeter:
    """Processor seconds of a system's processes by kind, and of this one, since the meter was made."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._before = self._now()

    def read_s(self) -> dict[str, float]:
        """Return processor seconds; the replicas of a stage are added up."""
        now = self._now()
        return {kind: now[kind] - before for kind, before in self._before.items()}

    def _now(self) -> dict[str, float]:
        used = {CLIENT: time.process_time()}
        for name, pid in self._pids.items():
            kind = name.rpartition("-")[0] or name
            used[kind] = used.get(kind, 0.0) + _used_s(pid)
        return used


def _used_s(pid: int) -> float:
    """Return a process's processor seconds, to the nanosecond; /proc/PID/stat counts ticks of 10 ms."""
    nanoseconds = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            nanoseconds += int((thread / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


@contextlib.contextmanager
def started(policy_file: Path, replicas: Mapping[Stage, int]) -> Iterator[System]:
    """Run `tercet up` on a free port for as long as the context lasts.

    Raises:
        NoSystemError: It did not come up; the message has its last words.
    """
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="tercet-pressure-") as folder:
        log = Path(folder) / "up.log"
        counts = ",".join(f"{stage}={count}" for stage, count in replicas.items())
        command = [sys.executable, "-P", "-m", "cli", "up", "--policy", str(policy_file), "--port", str(port)]
        command += ["--metrics-port", "0", "--replicas", counts, "--state", f"{folder}/state"]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=_environment())
        try:
            _wait_ready(process, log)
            yield System(port=port, state=Path(folder) / "state")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _environment() -> dict[str, str]:
    return {"OPENBLAS_NUM_THREADS": "1", **os.environ}


def _wait_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    until_s = time.monotonic() + _START_S
    while "ready http" not in log.read_text(errors="replace"):
        if process.poll() is not None or time.monotonic() > until_s:
            raise NoSystemError(f"`tercet up` did not come up:\n{log.read_text(errors='replace')[-1000:]}")
        time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
