"""A virtual clock and what is due on it."""

import heapq
from collections.abc import Callable
from typing import Any


class Clock:
    """Runs callbacks in the order of their times; those of one time in the order they were set.

    Attributes:
        now_s: Seconds since the simulation began.
        events: Callbacks run so far.
    """

    __slots__ = ("_due", "_set", "events", "now_s")

    def __init__(self) -> None:
        self.now_s = 0.0
        self.events = 0
        self._due: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._set = 0

    def at(self, when_s: float, call: Callable[[Any], None], argument: Any) -> None:
        """Have `call(argument)` run at `when_s`, which is not in the past."""
        self._set += 1
        heapq.heappush(self._due, (when_s, self._set, call, argument))

    def after(self, delay_s: float, call: Callable[[Any], None], argument: Any) -> None:
        """Have `call(argument)` run after `delay_s` ≥ 0."""
        self.at(self.now_s + delay_s, call, argument)

    def run_until(self, end_s: float) -> None:
        """Run what is due up to and at `end_s`; the clock then stands there."""
        due, pop = self._due, heapq.heappop
        while due and due[0][0] <= end_s:
            self.now_s, _, call, argument = pop(due)
            self.events += 1
            call(argument)
        self.now_s = max(self.now_s, end_s)

    def run_all(self) -> None:
        """Run until nothing is due."""
        while self._due:
            self.run_until(self._due[0][0])
