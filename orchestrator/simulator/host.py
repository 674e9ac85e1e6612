"""Processor cores that processes share: a small machine on which gateway, Redis and workers compete.

Every process does one thing at a time, in the order it was asked to. Each core has a line of processes, and
runs the first one until that has nothing to do, or for one time slice if another waits behind it.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from orchestrator.core.profile import SharedHost
from orchestrator.simulator.clock import Clock

SLOWNESS_S = 0.02
"""A machine that is slow for the moment is so for about as long: a few time slices of its neighbours."""

_ROUNDING_S = 1e-9


class Host:
    """The cores.

    A process that wakes joins a line, and often that of a core that is free. A core that has been without
    work for a time slice takes over a process that waits for another core.

    Args:
        clock: The virtual clock.
        machine: How many cores, their time slice, how well processes find them, and how evenly they run.
        rng: Draws what varies.

    Attributes:
        busy_s: Processor seconds used.
    """

    def __init__(self, clock: Clock, machine: SharedHost, rng: np.random.Generator) -> None:
        self._clock = clock
        self._machine = machine
        self._rng = rng
        self._slow = 1.0
        self._slow_until_s = 0.0
        self._lines: list[deque[Process]] = [deque() for _ in range(machine.cores)]
        self.busy_s = 0.0

    def wake(self, process: "Process") -> None:
        """A process has something to do."""
        free = [core for core, line in enumerate(self._lines) if not line]
        if free and self._rng.random() < self._machine.seek:
            self._join(process, free[0])
        else:
            self._join(process, int(self._rng.integers(len(self._lines))))

    def _join(self, process: "Process", core: int) -> None:
        line = self._lines[core]
        line.append(process)
        if len(line) == 1:
            self._run(core, self._machine.slice_s)

    def _run(self, core: int, slice_s: float) -> None:
        """Let the first in line go on with what it has in hand, no longer than what is left of its slice."""
        work_s = min(self._lines[core][0].left_s, slice_s)
        self.busy_s += work_s
        took_s = work_s * self._slowed() / (1.0 - (self._machine.stolen if all(self._lines) else 0.0))
        self._clock.after(took_s, self._ran, (core, work_s, slice_s - work_s))

    def _ran(self, ran: tuple[int, float, float]) -> None:
        core, work_s, slice_s = ran
        line = self._lines[core]
        process = line[0]
        process.worked(work_s)
        if process.busy and slice_s > _ROUNDING_S:
            self._run(core, slice_s)
            return
        line.popleft()
        if process.busy:
            line.append(process)
        if line:
            self._run(core, self._machine.slice_s)
        else:
            self._clock.after(self._machine.slice_s, self._balance, core)

    def _balance(self, core: int) -> None:
        longest = max(self._lines, key=len)
        if not self._lines[core] and len(longest) > 1:
            self._join(longest.pop(), core)

    def _slowed(self) -> float:
        if self._clock.now_s >= self._slow_until_s:
            slowness = self._machine.slowness
            self._slow = slowness[int(self._rng.integers(len(slowness)))]
            self._slow_until_s = self._clock.now_s + SLOWNESS_S
        return self._slow


class Process:
    """One process: what it is asked to do waits in line.

    Args:
        host: Its cores.
        wake_s: Processor seconds that work takes more which finds the process asleep.

    Attributes:
        left_s: Processor seconds of what it has in hand.
    """

    def __init__(self, host: Host, wake_s: float = 0.0) -> None:
        self._host = host
        self._wake_s = wake_s
        self._line: deque[tuple[float, Callable[[Any], None], Any]] = deque()
        self._awake = False
        self.left_s = 0.0

    @property
    def busy(self) -> bool:
        """Whether it has work."""
        return bool(self._line)

    def run(self, work_s: float, call: Callable[[Any], None], argument: Any) -> None:
        """Work for `work_s` processor seconds when its turn comes, then have `call(argument)` run."""
        asleep = not self._line and not self._awake
        self._line.append((work_s + self._wake_s if asleep else work_s, call, argument))
        if asleep:
            self.left_s = self._line[0][0]
            self._host.wake(self)

    def worked(self, work_s: float) -> None:
        """Count work on what it has in hand, and go on to the next when that is done; called by the host."""
        self.left_s -= work_s
        if self.left_s <= _ROUNDING_S:
            _, call, argument = self._line.popleft()
            self._awake = True  # for what follows at once
            call(argument)
            self._awake = False
            if self._line:
                self.left_s = self._line[0][0]


def nothing(_: Any) -> None:
    """Follow work that nobody waits for."""
