"""A decode replica on a shared host, step by step, with the writes of its tokens.

One write is on its way to Redis at a time; what comes meanwhile gathers for the next.
"""

from orchestrator.core.profile import DecodeTiming
from orchestrator.simulator.busy_time import BusyTime
from orchestrator.simulator.clock import Clock
from orchestrator.simulator.engine import Milestones
from orchestrator.simulator.hop import Hop
from orchestrator.simulator.host import nothing
from orchestrator.simulator.host_path import HostedHops, HostPath
from stages.types import Stage


class HostedDecode:
    """Continuous batching, step by step, with the writes of its tokens."""

    def __init__(self, clock: Clock, path: HostPath, milestones: Milestones, timing: DecodeTiming) -> None:
        self._path = path
        self._worker = path.worker()
        self._hops = HostedHops(path, self._worker, Stage.DECODE, self._take)
        self._to = milestones
        self._timing = timing
        self._busy = BusyTime(clock)
        self._stopped = False
        self._joining: list[Hop] = []
        self._batch: dict[Hop, int] = {}
        self._context_tokens = 0
        self._stepping = False
        self._outbox: dict[Hop, bool] = {}
        self._writing = False
        self._first: set[Hop] = set()

    def submit(self, hop: Hop) -> None:
        """See `Engine`."""
        self._busy.enter()
        self._hops.send(hop)

    def busy_s(self) -> float:
        """See `Engine`; from the moment that a hop is on its way."""
        return self._busy.total_s()

    def steps_left(self, hop: Hop) -> int | None:
        """See `Engine`; all of them before it is in the batch."""
        return self._batch.get(hop, hop.steps)

    def stop(self) -> None:
        """See `Engine`."""
        self._stopped = True

    def _take(self, hop: Hop) -> None:
        self._joining.append(hop)
        if not self._stepping:
            self._step()

    def _step(self) -> None:
        """Let in who has come, with the token that prefill made, and begin a step if anybody goes on."""
        for hop in self._joining:
            self._emit(hop, over=hop.steps <= 0)
            if hop.steps > 0:
                self._batch[hop] = hop.steps
                self._context_tokens += hop.context_tokens
        self._joining.clear()
        self._flush()
        self._stepping = bool(self._batch)
        if self._stepping:
            step_s = self._timing.itl_s(len(self._batch), self._context_tokens)
            self._worker.run(step_s, self._end, None)

    def _end(self, _: None) -> None:
        self._context_tokens += len(self._batch)
        for hop, left in list(self._batch.items()):
            self._batch[hop] = left - 1
            self._emit(hop, over=left == 1)
            if left == 1:
                del self._batch[hop]
                self._context_tokens -= hop.context_tokens + hop.steps
        self._step()

    def _emit(self, hop: Hop, *, over: bool) -> None:
        self._outbox[hop] = over

    def _flush(self) -> None:
        if self._outbox and not self._writing:
            self._writing = True
            written, self._outbox = self._outbox, {}
            self._path.store.run(self._path.costs.store_write_s, self._stored, written)

    def _stored(self, written: dict[Hop, bool]) -> None:
        self._writing = False
        self._flush()
        for event in written.items():
            self._path.gateway.run(self._path.costs.event_s, self._told, event)
            if event[1]:
                self._worker.run(self._hops.after_s, nothing, None)

    def _told(self, event: tuple[Hop, bool]) -> None:
        self._path.client.run(self._path.costs.client_event_s, self._read, event)

    def _read(self, event: tuple[Hop, bool]) -> None:
        hop, over = event
        if self._stopped:
            return
        if hop not in self._first:
            self._first.add(hop)
            self._to.first(hop)
        if over:
            self._first.discard(hop)
            self._busy.leave()
            self._to.done(hop)
