"""How long replicas take to start: each is killed, and the supervisor starts it again."""

import json
import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cli.pressure.system import NoSystemError, System
from stages.types import Stage

_PATIENCE_S = 60.0
_STEADY_S = 1.0
"""Between kills, so that what was killed last does not slow the next start down."""


def cold_starts(system: System, times: int, say: Callable[[str], None]) -> dict[Stage, list[float]]:
    """Return the seconds from a process's start until it serves, for one replica of each stage.

    Raises:
        NoSystemError: A replica did not come back.
    """
    found: dict[Stage, list[float]] = {stage: [] for stage in Stage}
    for number in range(times):
        for stage in Stage:
            say(f"start {number + 1} of {stage}")
            found[stage].append(_restart(system, f"{stage}-0"))
            time.sleep(_STEADY_S)
    return found


def _restart(system: System, name: str) -> float:
    log = system.state / "logs" / f"{name}.log"
    seen = len(_serving(log))
    os.kill(system.pids()[name], signal.SIGKILL)
    until_s = time.monotonic() + _PATIENCE_S
    while len(served := _serving(log)) == seen:
        if time.monotonic() > until_s:
            raise NoSystemError(f"{name} did not come back within {_PATIENCE_S:g} s; see {log}")
        time.sleep(0.05)
    started_unix_s = next(p["started_unix_s"] for p in system.facts()["processes"] if p["name"] == name)
    return served[-1] - float(started_unix_s)


def _serving(log: Path) -> list[float]:
    """Return the Unix times at which a replica said that it serves."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if '"serving"' in line]
    return [_unix_s(json.loads(line)["time"]) for line in lines]


def _unix_s(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC).timestamp()
