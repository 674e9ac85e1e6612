"""Real processes of a system under test: started here, measured from /proc, ended by pid."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from stages.orphans import die_with_parent

ROOT = Path(__file__).parents[1]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Processes:
    """Child processes by name; leaving the context ends them, the last started first."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(list(self._running)):
            self.stop(name)

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        piped: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start a process; what it prints goes to `<name>.log`, its standard output to a pipe if `piped`."""
        with (self._logs / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={
                    **os.environ,
                    "OPENBLAS_NUM_THREADS": "1",
                    "PYTHONPATH": str(ROOT),
                    **(environment or {}),
                },
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches the benchmark alone
                preexec_fn=die_with_parent,
            )
        self._running[name] = process
        return process

    def python(self, name: str, module: str, *args: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start `python -m module`."""
        return self.start(name, [sys.executable, "-m", module, *args], environment)

    def pid(self, name: str) -> int:
        """Return a process id.

        Raises:
            RuntimeError: It has ended; the message has its last words.
        """
        if self._running[name].poll() is not None:
            raise RuntimeError(f"{name} ended:\n{self.output(name)[-2000:]}")
        return self._running[name].pid

    def pids(self) -> dict[str, int]:
        """Return all process ids by name."""
        return {name: self.pid(name) for name in self._running}

    def output(self, name: str) -> str:
        """Return what a process has printed."""
        return (self._logs / f"{name}.log").read_text(errors="replace")

    def stop(self, name: str, grace_s: float = 15.0) -> None:
        """End a process: a piped one by the end of its input, others by SIGTERM; SIGKILL after the grace."""
        process = self._running.pop(name)
        if process.stdin:
            process.stdin.close()
        elif process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def cpu_s(pid: int) -> float:
    """Return the processor seconds that a process has used, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def busy_cores(seconds: float) -> float:
    """Return how many cores this machine keeps busy, averaged over the next `seconds`."""
    before, started_s = _busy_s(), time.monotonic()
    time.sleep(seconds)
    return (_busy_s() - before) / (time.monotonic() - started_s)


def _busy_s() -> float:
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle, iowait = fields[3:5]
    return (sum(fields) - idle - iowait) / _TICKS_PER_S


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process, pages shared with others included."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class CpuMeter:
    """Processor time of several processes since the meter was made."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._before = {name: cpu_s(pid) for name, pid in pids.items()}

    def read_s(self) -> dict[str, float]:
        """Return processor seconds by name."""
        return {name: cpu_s(pid) - self._before[name] for name, pid in self._pids.items()}


def wait_until(what: str, check: Callable[[], object], deadline_s: float = 60.0) -> None:
    """Poll until `check()` is true.

    Raises:
        TimeoutError: It did not become true in time.
    """
    until_s = time.monotonic() + deadline_s
    while not check():
        if time.monotonic() > until_s:
            raise TimeoutError(f"not within {deadline_s:g} s: {what}")
        time.sleep(0.02)
