"""The one thread of an engine process that computes: it takes work in, steps, and lets work go.

Pool threads submit tasks and wait. Everything that changes a task after that (admission, cancel, pause,
deadline, step) happens on the loop's thread, so a stage's core needs no locks.
"""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from stages.early import EarlySignals
from stages.engines import DeadlineExceeded, WorkCancelled
from stages.types import EngineLoad

_log = logging.getLogger(__name__)


class EngineCrashed(RuntimeError):
    """A step raised: the engine's state is unknown and its process must end. `__cause__` says why."""


ResultT = TypeVar("ResultT")


@dataclass(slots=True, kw_only=True, eq=False)
class Task(Generic[ResultT]):
    """Work that a pool thread waits for.

    Attributes:
        key: `Job.key`.
        deadline_unix_s: Wall-clock second at which it is given up.
        tokens: Its work in the stage's unit, for the load while nobody has looked at it yet.
        paused: Its reader is slow.
        future: Ends exactly once, on the loop's thread.
    """

    key: str
    deadline_unix_s: float
    tokens: int
    paused: bool = False
    future: Future[ResultT] = field(default_factory=Future)


TaskT = TypeVar("TaskT", bound="Task[Any]")
TakenT = TypeVar("TakenT", bound="Task[Any]", contravariant=True)


class Core(Protocol[TakenT]):
    """What a stage does on the loop's thread."""

    def admit(self, task: TakenT) -> None:
        """Take a new task into the queue."""

    def drop(self, task: TakenT) -> None:
        """Forget a task that is queued or running, and free all it holds."""

    def step(self) -> bool:
        """Compute one batch and end the tasks that are done; return False if nothing could be done.

        Ends a task through its future after freeing what it held. An exception is a crash.
        """

    def load(self) -> EngineLoad:
        """Return the load; `step_age_s` and `steps` are filled in by the loop."""


class EngineLoop(Generic[TaskT]):
    """Runs a core on a daemon thread until `close` or a crash.

    Attributes:
        failed: What a step raised, None while the engine is sound. Once set, every waiting and every
            further call raises EngineCrashed, and the process should end.
    """

    def __init__(self, core: Core[TaskT], name: str) -> None:
        self.failed: BaseException | None = None
        self._core = core
        self._wake = threading.Condition()
        self._inbox: deque[Callable[[], None]] = deque()
        self._inbox_tokens = 0
        self._closed = False
        self._tasks: dict[str, TaskT] = {}
        self._early = EarlySignals()
        self._next_deadline_s = float("inf")
        self._step_started_s: float | None = None
        self._steps = 0
        self._snapshot = core.load()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def run(self, task: TaskT) -> None:
        """Hand in a task and block until its future has ended; the caller reads the future.

        Raises:
            EngineCrashed: The engine crashed before or meanwhile.
        """
        with self._wake:
            if self.failed is None and not self._closed:
                self._inbox_tokens += task.tokens
                self._inbox.append(partial(self._accept, task))
                self._wake.notify()
            else:
                self._refuse(task)
        task.future.exception()

    def cancel(self, key: str) -> None:
        """End the task with this key as cancelled before the next step; remember unknown keys."""
        self._post(partial(self._cancel, key))

    def pause(self, key: str, paused: bool) -> None:
        """Set whether the task with this key is held back; remember unknown keys."""
        self._post(partial(self._pause, key, paused))

    def load(self) -> EngineLoad:
        """Return the load after the last step, with what has arrived since; never waits for a step."""
        started = self._step_started_s
        age = 0.0 if started is None else time.monotonic() - started
        with self._wake:
            arrived = self._inbox_tokens
            snapshot = self._snapshot
        queued = snapshot.queued_tokens + arrived
        return replace(snapshot, queued_tokens=queued, step_age_s=age, steps=self._steps)

    def close(self) -> None:
        """Stop after the present step; tasks not done end as cancelled. Safe to call twice."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _post(self, action: Callable[[], None]) -> None:
        with self._wake:
            self._inbox.append(action)
            self._wake.notify()

    def _run(self) -> None:
        try:
            busy = True
            while self._collect(wait=not busy):
                self._expire(time.time())
                busy = self._step()
        except BaseException as error:
            _log.critical("engine step failed; this process must end", exc_info=True)
            self.failed = error
        self._end_all()

    def _collect(self, wait: bool) -> bool:
        """Carry out what has arrived; return False once closed. With `wait`, block until there is some."""
        with self._wake:
            while wait and not self._inbox and not self._closed:
                if not self._wake.wait(self._patience_s()):
                    break
            actions, self._inbox, self._inbox_tokens = self._inbox, deque(), 0
            closed = self._closed
        for action in actions:
            action()
        if actions:
            self._snapshot = self._core.load()
        return not closed

    def _patience_s(self) -> float | None:
        left = self._next_deadline_s - time.time()
        return None if left == float("inf") else max(0.0, left)

    def _step(self) -> bool:
        if not self._tasks:
            return False
        self._step_started_s = time.monotonic()
        busy = self._core.step()
        self._step_started_s = None
        self._steps += busy
        self._snapshot = self._core.load()
        return busy

    def _accept(self, task: TaskT) -> None:
        if task.key in self._tasks or self._early.take_cancel(task.key):
            task.future.set_exception(WorkCancelled(task.key))
            return
        task.paused = self._early.take_pause(task.key)
        self._tasks[task.key] = task
        task.future.add_done_callback(lambda _: self._tasks.pop(task.key))
        self._next_deadline_s = min(self._next_deadline_s, task.deadline_unix_s)
        self._core.admit(task)

    def _cancel(self, key: str) -> None:
        if (task := self._tasks.get(key)) is None:
            self._early.cancel(key)
            return
        self._core.drop(task)
        task.future.set_exception(WorkCancelled(key))

    def _pause(self, key: str, paused: bool) -> None:
        if (task := self._tasks.get(key)) is None:
            self._early.pause(key, paused)
        else:
            task.paused = paused

    def _expire(self, now_s: float) -> None:
        if now_s < self._next_deadline_s:
            return
        for task in [t for t in self._tasks.values() if t.deadline_unix_s <= now_s]:
            self._core.drop(task)
            task.future.set_exception(DeadlineExceeded(task.key))
        self._next_deadline_s = min((t.deadline_unix_s for t in self._tasks.values()), default=float("inf"))

    def _end_all(self) -> None:
        """Let nobody wait for a loop that has ended."""
        with self._wake:
            self._closed = True
            actions = list(self._inbox)
            self._inbox.clear()
        for action in actions:
            with contextlib.suppress(Exception):
                action()
        for task in list(self._tasks.values()):
            self._refuse(task)

    def _refuse(self, task: TaskT) -> None:
        if self.failed is None:
            task.future.set_exception(WorkCancelled(f"{task.key}: the engine is closed"))
            return
        crash = EngineCrashed(f"{type(self.failed).__name__}: {self.failed}")
        crash.__cause__ = self.failed
        task.future.set_exception(crash)
