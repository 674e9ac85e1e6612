"""A Celery worker embedded in a process whose main thread owns the signals."""

import threading
from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.worker import WorkController
from celery.worker import state as worker_state
from kombu import Queue


class Consumer:
    """Consumes exactly one queue with a pool of `slots` threads. One per process: Celery's stop flag is global."""

    def __init__(
        self, app: Celery, queue: str, slots: int, name: str, body: Callable[[dict[str, Any]], None]
    ) -> None:
        self._ready = threading.Event()
        # A declared queue would leave a binding behind for every replica epoch.
        app.conf.task_queues = [Queue(queue, no_declare=True)]
        app.task(name=name)(body)
        self._controller = WorkController(
            app=app,
            hostname=f"{queue}@tercet",
            pool="threads",
            concurrency=slots,
            # Kombu's hub: acknowledgements from pool threads take effect at once, not at the next 2 s timeout.
            use_eventloop=True,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            ready_callback=lambda _consumer: self._ready.set(),
        )
        self._thread = threading.Thread(target=self._controller.start, name="celery", daemon=True)

    def start(self, timeout_s: float = 10.0) -> None:
        """Start consuming; returns when the queue is being read.

        Raises:
            TimeoutError: The broker could not be reached in time.
        """
        self._thread.start()
        if not self._ready.wait(timeout_s):
            raise TimeoutError("the Celery consumer did not come up: is Redis reachable?")

    def stop(self, timeout_s: float = 3.0) -> None:
        """Stop consuming, at most one BRPOP timeout (1 s) later."""
        worker_state.should_stop = 0  # type: ignore[assignment]
        if self._controller.hub is not None:
            self._controller.hub.call_soon(lambda: None)  # type: ignore[attr-defined]  # wakes the loop, so that it sees the flag at once
        self._thread.join(timeout_s)
