"""One supervised process: started, watched, started again."""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stages.orphans import die_with_parent

log = logging.getLogger(__name__)

BACKOFF_S = (0.2, 5.0)
"""First and longest wait before a restart; it doubles with each quick death."""
STEADY_S = 10.0
"""A process that lived this long starts over with the shortest wait."""
CRASH_LOOP = 3
"""So many quick deaths in a row are called a crash loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """What is started: made anew for each start, so that every boot has an epoch of its own.

    Attributes:
        boot_id: Replica or gateway id of this boot.
        environment: Added to the supervisor's own.
    """

    boot_id: str
    command: list[str]
    environment: Mapping[str, str]


class Child:
    """Keeps one process running.

    Attributes:
        name: Stable across restarts.
        state: `starting`, `running`, `waiting` (for a restart) or `stopped`.
        restarts: Starts after the first.
        quick_deaths: Deaths in a row before `STEADY_S` of life.
        last_exit: Exit code of the last death; negative for a signal.
        log_file: What the process writes, boot after boot.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        boot: Callable[[], Boot],
        log_file: Path,
        *,
        on_exit: Callable[["Child", Boot, int], None],
        on_change: Callable[[], None],
        death_signal: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.name = name
        self.kind = kind
        self.log_file = log_file
        self.state = "starting"
        self.restarts = 0
        self.quick_deaths = 0
        self.last_exit: int | None = None
        self.boot: Boot | None = None
        self.started_s = 0.0
        self._new_boot = boot
        self._on_exit = on_exit
        self._on_change = on_change
        self._death_signal = death_signal
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def run(self) -> None:
        """Start the process and start it again whenever it ends, until `stop`."""
        backoff_s = BACKOFF_S[0]
        while not self._stopping:
            try:
                await self._run_once()
            except OSError as error:  # no memory, no file handles: as good as a quick death
                log.error("%s cannot be started: %s", self.name, error)
            if self._stopping:
                break
            if time.monotonic() - self.started_s > STEADY_S:
                backoff_s, self.quick_deaths = BACKOFF_S[0], 0
            self.quick_deaths += 1
            self._become("waiting")
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, BACKOFF_S[1])
            self.restarts += 1
        self._become("stopped")

    async def stop(self, grace_s: float) -> None:
        """End the process for good: SIGTERM, and SIGKILL after `grace_s`."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        self.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                await process.wait()
        except TimeoutError:
            self.send_signal(signal.SIGKILL)
            await process.wait()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, if the process still runs."""
        if self.pid is not None and self._process:
            self._process.send_signal(number)

    def last_words(self, lines: int = 5) -> str:
        """Return the end of the process's log."""
        text = self.log_file.read_text(errors="replace") if self.log_file.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    async def _run_once(self) -> None:
        self.boot = boot = self._new_boot()
        self.started_s = time.monotonic()
        with self.log_file.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *boot.command,
                env={**os.environ, **boot.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C reaches the supervisor alone
                preexec_fn=partial(die_with_parent, self._death_signal),
            )
        self._become("running")
        if self._stopping:  # asked while the process was being made
            self.send_signal(signal.SIGTERM)
        self.last_exit = await self._process.wait()
        _end_group(self._process.pid)
        self._on_exit(self, boot, self.last_exit)

    def _become(self, state: str) -> None:
        self.state = state
        try:
            self._on_change()
        except OSError as error:
            log.error("state of %s not written: %s", self.name, error)


def _end_group(pid: int) -> None:
    """Kill what a process left behind: the core of a vLLM server that was killed would keep its ports."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
