"""`ready`: seconds from `tercet up` to its ready line, installed and with files in the page cache."""

import tempfile
import time
from pathlib import Path

from bench.processes import Processes, wait_until
from bench.report import Figure, Say, figure
from stages.free_ports import free_port


def run(say: Say, quick: bool) -> list[Figure]:
    """Start and stop the default system several times; the first start only warms up."""
    seconds = []
    for number in range(3 if quick else 6):
        seconds.append(_start_once())
        say(f"start {number + 1}: {seconds[-1]:.2f} s")
    return [figure("ready.seconds", seconds[1:], "s", goal="<= 10")]


def _start_once() -> float:
    port = str(free_port())
    with tempfile.TemporaryDirectory(prefix="tercet-bench-") as folder, Processes(Path(folder)) as processes:
        started_s = time.monotonic()
        processes.python(
            "up", "cli", "up", "--port", port, "--metrics-port", "0", "--state", f"{folder}/state"
        )
        wait_until("the ready line", lambda: processes.pid("up") and "ready http" in processes.output("up"))
        return time.monotonic() - started_s
