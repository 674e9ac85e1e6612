"""How long something has had work."""

from orchestrator.simulator.clock import Clock


class BusyTime:
    """Adds up the seconds in which a count is above 0."""

    __slots__ = ("_clock", "_since_s", "_total_s", "count")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._total_s = 0.0
        self._since_s = 0.0
        self.count = 0

    def enter(self) -> None:
        """One more."""
        if not self.count:
            self._since_s = self._clock.now_s
        self.count += 1

    def leave(self) -> None:
        """One fewer."""
        self.count -= 1
        if not self.count:
            self._total_s += self._clock.now_s - self._since_s

    def total_s(self) -> float:
        """Return the sum up to now."""
        return self._total_s + (self._clock.now_s - self._since_s if self.count else 0.0)
