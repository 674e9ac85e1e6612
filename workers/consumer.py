"""A Celery worker embedded in a process whose main thread owns the signals; ADR 2 gives the reasons."""

import logging
import threading
from collections.abc import Callable
from typing import Any

from celery import Celery, bootsteps
from celery.worker import WorkController
from celery.worker import state as worker_state
from celery.worker.consumer import Consumer as CeleryConsumer
from kombu.entity import Queue

log = logging.getLogger(__name__)


class QuickConsumer(CeleryConsumer):
    """Reconnects within half a second; Celery's own waits 2, 4, 6 … 30 s and has no setting for it."""

    def connection_for_read(self, heartbeat: float | None = None) -> Any:
        """Return a connection, once there is one or the process stops."""
        connection: Any = self.app.connection_for_read(heartbeat=heartbeat)  # its stub knows integers only
        return connection.ensure_connection(
            lambda error, wait_s: log.warning("broker is away, next try in %.1f s: %s", wait_s, error),
            None,
            interval_start=0.1,
            interval_step=0.1,
            interval_max=0.5,
            callback=worker_state.maybe_shutdown,
        )


class NoRestore(bootsteps.StartStopStep):
    """Keeps kombu from pushing messages back on the queue when a channel closes.

    It does so by default at shutdown and on every reconnect, which would run a task twice. The ledger
    alone decides what is attempted again. Runs after each reconnect, before anything is consumed.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, parent: Any) -> None:
        """Switch the channel's restoring off."""
        parent.task_consumer.channel.do_restore = False


class Consumer:
    """Consumes one queue with a pool of `slots` threads. One per process: Celery's stop flag is global.

    Args:
        on_death: Called if the consumer ends without having been stopped; it cannot be revived.
    """

    def __init__(
        self,
        app: Celery,
        queue: str,
        slots: int,
        name: str,
        body: Callable[[dict[str, Any]], None],
        on_death: Callable[[], None],
    ) -> None:
        self._ready = threading.Event()
        self._on_death = on_death
        self._stopping = False
        app.steps["consumer"].add(NoRestore)
        # A declared queue would leave a binding behind for every replica epoch.
        app.conf.task_queues = [Queue(queue, no_declare=True)]
        app.task(name=name)(body)
        self._controller = WorkController(
            app=app,
            hostname=f"{queue}@tercet",
            pool="threads",
            concurrency=slots,
            consumer_cls=QuickConsumer,
            use_eventloop=True,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            ready_callback=lambda _consumer: self._ready.set(),
        )
        self._thread = threading.Thread(target=self._consume, name="celery", daemon=True)

    def start(self, timeout_s: float = 10.0) -> None:
        """Start consuming; returns when the queue is being read.

        Raises:
            TimeoutError: The broker could not be reached in time.
        """
        self._thread.start()
        if not self._ready.wait(timeout_s):
            raise TimeoutError("the Celery consumer did not come up: is Redis reachable?")

    def stop(self, timeout_s: float = 3.0) -> None:
        """Stop consuming, at most one BRPOP timeout (0.2 s) later."""
        self._stopping = True
        worker_state.should_stop = 0  # type: ignore[assignment]
        if self._controller.hub is not None:
            self._controller.hub.call_soon(lambda: None)  # type: ignore[attr-defined]  # wakes the loop
        self._thread.join(timeout_s)

    def _consume(self) -> None:
        # Celery logs what ends its consumer and returns.
        self._controller.start()
        if not self._stopping:
            self._on_death()
