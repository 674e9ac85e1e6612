"""Engines that call one another without us: servers that prefill, and the encoders that they call.

A server that prefills is told which encoders there are, as the registry has them, and says in its heartbeats
which it may still call. An encoder that drains waits until nobody says so of it; then it is done with what it
was asked before. It is the same with servers that prefill and may change to decode: workers beside those that
decode send them their halves of requests.
"""

import logging
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import redis

from stages.engines import Engine, MeetsOthers, StageError
from stages.types import Stage
from workers.config import WorkerConfig
from workers.ledger import WorkerLedger

log = logging.getLogger(__name__)

LOOK_S = 0.5
SETTLE_S = 1.5
"""What replicas say, and what servers say of themselves, is at most so old."""


class Others:
    """Keeps the engines that one calls those that its model has."""

    def __init__(self, engine: MeetsOthers, ledger: WorkerLedger, model: str) -> None:
        self._engine = engine
        self._ledger = ledger
        self._model = model
        self._trouble = ""

    def keep(self) -> None:
        """Look again and again, for ever; while the registry cannot be read, all stays as it is."""
        while True:
            try:
                self.meet()
                self._say("")
            except (redis.RedisError, StageError) as error:
                self._say(str(error))
            time.sleep(LOOK_S)

    def _say(self, trouble: str) -> None:
        """Log what keeps lists from being right, empty for nothing, whenever it is another than before."""
        if trouble and trouble != self._trouble:
            log.warning("the engine is not told whom to call: %s", trouble)
        elif self._trouble and not trouble:
            log.info("the engine is told whom to call again")
        self._trouble = trouble

    def meet(self) -> None:
        """Have the engine call those that there are, and none that drains or has gone.

        Raises:
            redis.RedisError, EngineRefused: It was not done.
        """
        # Older workers name no address, which a server would refuse, or call in vain.
        there = [
            each
            for each in self._ledger.replicas(self._model)
            if not each.draining and _is_address(each.peer_url)
        ]
        for stage in sorted(self._engine.meets):
            self._engine.meet(stage, [each.peer_url for each in there if each.stage is stage])


class Called:
    """An engine that others call, from its own side.

    Args:
        engine: It.
        ledger: Of its replica.
        model: That it serves.
        url: Where others call it.
        sleep: Takes seconds.
    """

    def __init__(
        self,
        engine: Engine,
        ledger: WorkerLedger,
        model: str,
        url: str,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._engine = engine
        self._ledger = ledger
        self._model = model
        self._url = url
        self._sleep = sleep

    def drain(self, deadline_s: float) -> None:
        """Return when nobody will call it any more and what it was asked is done, or at `deadline_s`.

        Its replica takes no new work by now. Seconds are monotonic.
        """
        for goes_on in (self._is_called, self._has_work):
            self._sleep(max(0.0, min(SETTLE_S, deadline_s - time.monotonic())))
            while goes_on() and time.monotonic() < deadline_s:
                self._sleep(LOOK_S)

    def _is_called(self) -> bool:
        return any(self._url in replica.calls for replica in self._ledger.replicas(self._model))

    def _has_work(self) -> bool:
        return self._engine.load().batch_size > 0


def meetings(config: WorkerConfig, engine: Engine, ledger: WorkerLedger) -> list[Callable[[], None]]:
    """Return what goes on for ever in a replica whose engine calls others: nothing in most."""
    if not (isinstance(engine, MeetsOthers) and engine.meets):
        return []
    return [Others(engine, ledger, config.model).keep]


def await_callers(config: WorkerConfig, engine: Engine, ledger: WorkerLedger, deadline_s: float) -> None:
    """Return when other engines have no more to do with a replica that drains: at once in most."""
    server = config.server
    if server is None:
        return
    called = {Stage.ENCODE: server.encoders_called, Stage.PREFILL: server.switches_roles}
    if called.get(config.stage):
        Called(engine, ledger, config.model, server.peer_url).drain(deadline_s)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
