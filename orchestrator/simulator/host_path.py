"""The processes that every request passes on a shared host, and the way of hops through them.

A hop goes gateway → Redis → worker → Redis → gateway, and each of these processes needs a core for its part.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from orchestrator.core.profile import SharedHost
from orchestrator.simulator.clock import Clock
from orchestrator.simulator.content import Content
from orchestrator.simulator.hop import Hop
from orchestrator.simulator.host import Host, Process, nothing
from orchestrator.simulator.service import Service
from stages.types import Stage

Arrive = Callable[[int, int, int, int, Content], None]
"""Takes a request: its row, images, text tokens, output tokens and what it may share with others."""


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

        def arrive(index: int, images: int, text_tokens: int, output_tokens: int, content: Content) -> None:
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
