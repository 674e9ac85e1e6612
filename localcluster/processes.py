"""Processes that belong together: one death ends all, and none outlives its parent."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from stages.orphans import die_with_parent

_LAST_LINES = 10


class ProcessDied(RuntimeError):
    """A process ended by itself; the message has the end of its log."""


class Processes:
    """Processes by name, each with a log in one folder."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a process of its own session, so that Ctrl-C reaches the parent alone."""
        with (self._logs / f"{name}.log").open("wb") as output:
            self._running[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def pids(self) -> dict[str, int]:
        """Return the process ids by name."""
        return {name: process.pid for name, process in self._running.items()}

    def check(self) -> None:
        """Do nothing while all run.

        Raises:
            ProcessDied: One does not.
        """
        for name, process in self._running.items():
            if process.poll() is not None:
                raise ProcessDied(f"{name} ended with {process.returncode}:\n{self._last_words(name)}")

    def kill(self) -> None:
        """End all at once: what they keep is thrown away, so nobody needs time to put it in order."""
        for process in self._running.values():
            process.kill()
        for process in self._running.values():
            process.wait()

    def _last_words(self, name: str) -> str:
        text = (self._logs / f"{name}.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-_LAST_LINES:])
