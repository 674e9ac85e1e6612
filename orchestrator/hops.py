"""Attempts of hops: each has a credit, a task on a replica's queue and an inbox for as long as it lasts."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.types import RouteQuery
from orchestrator.core.waiting import Waiting
from orchestrator.dispatch import Grant, Hop, StageQueue
from orchestrator.inbox import Inbox, Inboxes
from orchestrator.ports import Ledger, Observer
from orchestrator.registry import Registry
from stages.types import Job, Stage

log = logging.getLogger(__name__)

SILENCE_S = 5.0
"""A task unanswered for this long may have been lost with a connection; it is queued again."""
PAUSE_AT_REPLIES, RESUME_AT_REPLIES = 64, 8
"""Unread replies at which a slow reader's decode is held back, and let go again."""


@dataclass(slots=True, kw_only=True)
class Request:
    """What is known of a request while it is served. Seconds are monotonic but for `deadline_unix_s`.

    Attributes:
        due_s: When its first token is due.
        attempts: Dispatches so far, by hop.
        pull_urls: Of the blobs that stages made for it; they say which hosts hold some.
    """

    request_id: str
    reply_to: str
    model: str
    arrival_s: float
    due_s: float
    deadline_s: float
    deadline_unix_s: float
    priority: int = 0
    x_request_id: str = ""
    traceparent: str = ""
    attempts: dict[str, int] = field(default_factory=dict)
    pull_urls: set[str] = field(default_factory=set)

    def next_attempt(self, hop: str) -> dict[str, Any]:
        """Number a new attempt of a hop; returns the fields that every job has."""
        self.attempts[hop] = self.attempts.get(hop, 0) + 1
        return {
            "request_id": self.request_id,
            "hop": hop,
            "attempt": self.attempts[hop],
            "reply_to": self.reply_to,
            "model": self.model,
            "deadline_unix_s": self.deadline_unix_s,
            "traceparent": self.traceparent,
            "x_request_id": self.x_request_id,
        }


@dataclass(frozen=True, slots=True)
class Attempt:
    """One dispatched attempt."""

    grant: Grant
    inbox: Inbox


class Hops:
    """Runs attempts for all requests of a gateway."""

    def __init__(
        self,
        ledger: Ledger,
        registry: Registry,
        queues: Mapping[Stage, StageQueue],
        inboxes: Inboxes,
        observer: Observer,
    ) -> None:
        self._ledger = ledger
        self._registry = registry
        self._queues = queues
        self._inboxes = inboxes
        self._observer = observer
        self._running: dict[str, Attempt] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def attempt(self, request: Request, query: RouteQuery, job: Job) -> AsyncIterator[Attempt]:
        """Dispatch a job when its turn comes. Leaving early withdraws it.

        Raises:
            DeadlinePassed: Its turn came too late.
        """
        flow = _Flow(lambda order: self._spawn(self._order(job.key, order)))
        inbox = self._inboxes.open(job.key, flow.on_depth)
        grant = None
        asked_s = started_s = time.monotonic()
        self._observer.arrived(query.stage, again=job.attempt > 1)
        try:
            grant = await self._queues[query.stage].acquire(self._hop(request, query, job))
            started_s = time.monotonic()
            self._observer.waited(query.stage, started_s - asked_s)
            self._running[job.key] = attempt = Attempt(grant, inbox)
            yield attempt
        finally:
            self._inboxes.close(job.key)
            self._running.pop(job.key, None)
            if grant:
                self._registry.gave_back(grant.order.replica_id, grant.order.tokens, grant.order.kv_bytes)
                self._queues[query.stage].wake()
                self._observer.worked(query.stage, time.monotonic() - started_s)
                if not inbox.ended:
                    self._spawn(self._ledger.withdraw([job.key]))

    async def repeat_unheard(self) -> None:
        """Queue again, for ever, the tasks of attempts that nothing was heard of."""
        while True:
            await asyncio.sleep(SILENCE_S / 5)
            silent_since_s = time.monotonic() - SILENCE_S
            for attempt in [a for a in self._running.values() if a.inbox.heard_s < silent_since_s]:
                attempt.inbox.heard_s = time.monotonic()
                self._spawn(self._ledger.repeat(attempt.grant.order))

    def _hop(self, request: Request, query: RouteQuery, job: Job) -> Hop:
        load = self._registry.load(query.stage, 0)
        rate_tokens_per_s = load.rate_tokens_per_s / max(1, load.live_replicas)
        waiting = Waiting(
            hop_id=job.key,
            arrival_s=request.arrival_s,
            due_s=request.due_s,
            deadline_s=request.deadline_s,
            work_s=query.tokens / rate_tokens_per_s if rate_tokens_per_s else 0.0,
            priority=request.priority,
        )
        ttl_s = request.deadline_s - time.monotonic() + 60.0
        return Hop(waiting, query, job, ttl_s)

    async def _order(self, job: str, order: str) -> None:
        attempt = self._running.get(job)
        if attempt:
            await self._ledger.order(attempt.grant.order.replica_id, f"{order} {job}")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(_logged(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Flow:
    """Pauses a decode while its reader lags behind."""

    __slots__ = ("_order", "_paused")

    def __init__(self, order: Callable[[str], None]) -> None:
        self._order = order
        self._paused = False

    def on_depth(self, replies: int) -> None:
        if not self._paused and replies > PAUSE_AT_REPLIES:
            self._paused = True
            self._order("pause")
        elif self._paused and replies < RESUME_AT_REPLIES:
            self._paused = False
            self._order("resume")


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:
        log.warning("ledger call failed", exc_info=True)
