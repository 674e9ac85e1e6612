"""A replica that decodes and does nothing else."""

from orchestrator.core.profile import DecodeTiming
from orchestrator.simulator.busy_time import BusyTime
from orchestrator.simulator.clock import Clock
from orchestrator.simulator.engine import Milestones
from orchestrator.simulator.hop import Hop
from orchestrator.simulator.running_batch import RunningBatch


class DecodeEngine:
    """Continuous batching, in closed form between joins and leaves."""

    def __init__(self, clock: Clock, milestones: Milestones, timing: DecodeTiming) -> None:
        self._to = milestones
        self._busy = BusyTime(clock)
        self._batch = RunningBatch(clock, timing, self._through)

    def submit(self, hop: Hop) -> None:
        """See `Engine`."""
        self._to.first(hop)
        self._batch.catch_up()
        self._busy.enter()
        self._batch.join(hop)
        self._batch.run()

    def busy_s(self) -> float:
        """See `Engine`."""
        return self._busy.total_s()

    def steps_left(self, hop: Hop) -> int | None:
        """See `Engine`."""
        self._batch.catch_up()
        return self._batch.steps_left(hop)

    def stop(self) -> None:
        """See `Engine`."""
        self._batch.stop()

    def _through(self, hop: Hop) -> None:
        self._busy.leave()
        self._to.done(hop)
