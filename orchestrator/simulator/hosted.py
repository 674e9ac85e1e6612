"""Engines whose replicas share one machine with the gateway, Redis and the clients.

A hop goes gateway → Redis → worker → Redis → gateway, and each of these processes needs a core for its part
of it (`host`). Tokens go out in writes: while one is on its way to Redis, further tokens gather for the next.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from orchestrator.core.profile import DecodeTiming, HardwareClass, ModelProfile, SharedHost
from orchestrator.simulator.clock import Clock
from orchestrator.simulator.engines import BusyTime, Engine, Milestones, StepEngine, Work
from orchestrator.simulator.hop import Hop
from orchestrator.simulator.host import Host, Process, nothing
from orchestrator.simulator.service import Service
from stages.types import Stage

Arrive = Callable[[int, int, int, int, str], None]
"""Takes a request: its row, images, text tokens, output tokens and the name of its images."""


class HostPath:
    """The processes that every request passes, on one host."""

    def __init__(self, clock: Clock, costs: SharedHost, rng: np.random.Generator) -> None:
        self._clock = clock
        self.costs = costs
        self.host = Host(clock, costs, rng)
        self.gateway = Process(self.host, costs.wake_s)
        self.store = Process(self.host, costs.store_wake_s)
        self.client = Process(self.host)

    def worker(self) -> Process:
        """Return the process of a new replica."""
        return Process(self.host)

    def door(self, service: Service) -> Arrive:
        """Return what lets requests in: client and gateway work before a stage hears of one."""

        def received(request: tuple[Any, ...]) -> None:
            service.arrive(*request)

        def sent(request: tuple[Any, ...]) -> None:
            self.gateway.run(self.costs.request_s, received, request)

        def arrive(index: int, images: int, text_tokens: int, output_tokens: int, content: str) -> None:
            request = (index, images, text_tokens, output_tokens, content, self._clock.now_s)
            self.client.run(self.costs.client_request_s, sent, request)

        return arrive


class HostedHops:
    """The way of hops to one replica's process and back, around what they do there."""

    def __init__(self, path: HostPath, worker: Process, stage: Stage, arrived: Callable[[Hop], None]) -> None:
        self._path = path
        self._worker = worker
        self._arrived = arrived
        costs = path.costs
        self._half_gateway_s = costs.hop_s / 2.0
        self._half_store_s = costs.store_hop_s / 2.0
        self._before_s = costs.worker_hop_s[stage] * (1.0 - costs.late)
        self.after_s = costs.worker_hop_s[stage] * costs.late

    def send(self, hop: Hop) -> None:
        """Bring a hop from the gateway to its worker."""
        self._path.gateway.run(self._half_gateway_s, self._sent, hop)

    def answer(self, hop: Hop, done: Callable[[Hop], None]) -> None:
        """Bring its answer back, then call `done`; the worker tidies up meanwhile."""
        self._path.store.run(self._half_store_s, self._answered, (hop, done))
        self._worker.run(self.after_s, nothing, None)

    def _sent(self, hop: Hop) -> None:
        self._path.store.run(self._half_store_s, self._received, hop)

    def _received(self, hop: Hop) -> None:
        self._worker.run(self._before_s, self._arrived, hop)

    def _answered(self, answer: tuple[Hop, Callable[[Hop], None]]) -> None:
        hop, done = answer
        self._path.gateway.run(self._half_gateway_s * (1.0 - self._path.costs.late), done, hop)
        self._path.gateway.run(self._half_gateway_s * self._path.costs.late, nothing, None)


class HostedEngine:
    """A stage that answers each hop once, behind the way to it."""

    def __init__(
        self,
        clock: Clock,
        path: HostPath,
        stage: Stage,
        milestones: Milestones,
        engine: Callable[[Milestones, Work], Engine],
    ) -> None:
        worker = path.worker()
        inner = Milestones(prefilled=milestones.prefilled, first=milestones.first, done=self._through)
        self._engine = engine(inner, worker.run)
        self._hops = HostedHops(path, worker, stage, self._engine.submit)
        self._done = milestones.done
        self._busy = BusyTime(clock)
        self._stopped = False

    def submit(self, hop: Hop) -> None:
        """See `Engine`."""
        self._busy.enter()
        self._hops.send(hop)

    def busy_s(self) -> float:
        """See `Engine`; from the moment that a hop is on its way."""
        return self._busy.total_s()

    def stop(self) -> None:
        """See `Engine`."""
        self._stopped = True
        self._engine.stop()

    def _through(self, hop: Hop) -> None:
        self._hops.answer(hop, self._answered)

    def _answered(self, hop: Hop) -> None:
        self._busy.leave()
        if not self._stopped:
            self._done(hop)


class HostedEncode:
    """Images one after another."""

    def __init__(self, milestones: Milestones, work: Work, image_s: float) -> None:
        self._done = milestones.done
        self._work = work
        self._image_s = image_s

    def submit(self, hop: Hop) -> None:
        """See `Engine`."""
        self._work(self._image_s * hop.images, self._done, hop)

    def busy_s(self) -> float:
        """See `Engine`; the worker's process knows."""
        return 0.0

    def stop(self) -> None:
        """See `Engine`; what is lost is dropped where its answer arrives."""


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


def hosted_engine(
    path: HostPath,
    stages: tuple[Stage, ...],
    profile: ModelProfile,
    where: HardwareClass,
    clock: Clock,
    milestones: Milestones,
) -> Engine:
    """Return a new engine on a shared host.

    Raises:
        ValueError: A replica with several stages; none was measured so.
    """
    if stages == (Stage.DECODE,):
        return HostedDecode(clock, path, milestones, profile.decode[where])
    if stages == (Stage.ENCODE,):
        image_s = profile.encode[where].image_s
        return HostedEngine(
            clock, path, Stage.ENCODE, milestones, lambda to, work: HostedEncode(to, work, image_s)
        )
    if stages != (Stage.PREFILL,):
        raise ValueError("a profile with a shared host has one stage in each replica")
    timing, chunk_tokens = profile.prefill[where], profile.chunk_tokens
    return HostedEngine(
        clock,
        path,
        Stage.PREFILL,
        milestones,
        lambda to, work: StepEngine(clock, to, timing, chunk_tokens, work=work),
    )
