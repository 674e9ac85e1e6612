"""Attempts of hops: each has a credit, a task on a replica's queue and an inbox for as long as it lasts."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from orchestrator.core.types import RouteQuery
from orchestrator.core.waiting import Waiting
from orchestrator.dispatch import Grant, Hop, StageQueue
from orchestrator.inbox import Inbox, Inboxes
from orchestrator.logs import job_fields
from orchestrator.output_length import OutputLength
from orchestrator.ports import Ledger, LedgerUnavailable, Observer
from orchestrator.registry import Registry
from stages.reply import Lost
from stages.types import Job, Stage

log = logging.getLogger(__name__)

FORGET_AFTER_S = 60.0
"""What a request leaves behind lapses so long after its deadline, if nobody removed it."""
SILENCE_S = 5.0
"""A task unanswered for this long may have been lost with a connection; it is queued again."""
HEDGE = ".hedge"
"""Ends the name of a hop that does, on a second replica, what another hop does too."""
PAUSE_AT_REPLIES, RESUME_AT_REPLIES = 64, 8
"""Unread replies at which a slow reader's decode is held back, and let go again."""


@dataclass(slots=True, kw_only=True)
class Request:
    """What is known of a request while it is served. Seconds are monotonic but for `deadline_unix_s`.

    Attributes:
        due_s: When its first token is due, by the client's deadline or by its size and the policy;
            None until its size is known.
        attempts: Dispatches so far, by hop.
        pull_urls: Of the blobs that stages made for it; they say which hosts hold some.
        over: Nothing more is to be done for it.
    """

    request_id: str
    reply_to: str
    model: str
    arrival_s: float
    due_s: float | None
    deadline_s: float
    deadline_unix_s: float
    priority: int = 0
    x_request_id: str = ""
    traceparent: str = ""
    attempts: dict[str, int] = field(default_factory=dict)
    pull_urls: set[str] = field(default_factory=set)
    over: bool = False

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


@dataclass(slots=True)
class Attempt:
    """One dispatched attempt.

    Attributes:
        over: The ledger knows nothing of it as running any more.
    """

    grant: Grant
    inbox: Inbox
    flow: "Flow"
    over: bool = False


class Hops:
    """Runs attempts for all requests of a gateway.

    Attributes:
        outputs: What decodes turned out to produce.
    """

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
        self.outputs = OutputLength()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def attempt(self, request: Request, query: RouteQuery, job: Job) -> AsyncIterator[Attempt]:
        """Dispatch a job when its turn comes. Leaving early withdraws it.

        Raises:
            DeadlinePassed: Its turn came too late.
            NobodyInDomain: No replica of the domain that it has to stay in is left.
        """
        flow = Flow(partial(self._tell, job.key), partial(self._spawn, job))
        inbox = self._inboxes.open(job.key, flow.on_depth)
        grant = None
        asked_s = started_s = time.monotonic()
        self._observer.arrived(query.stage, again=job.attempt > 1 or job.hop.endswith(HEDGE))
        try:
            grant = await self._queues[query.stage].acquire(self._hop(request, query, job))
            started_s = time.monotonic()
            self._observer.waited(query.stage, started_s - asked_s)
            self._running[job.key] = attempt = Attempt(grant, inbox, flow)
            yield attempt
        finally:
            self._inboxes.close(job.key)
            self._running.pop(job.key, None)
            if grant:
                self._registry.gave_back(grant.order)
                self._queues[query.stage].wake()
                self._observer.worked(query.stage, time.monotonic() - started_s)
                if not inbox.ended:
                    self._spawn(job, self._ledger.withdraw([job.key]))

    def delivered(self, stage: Stage, tokens: int, cached_tokens: int = 0) -> None:
        """Count work that a stage got done, and what its cache supplied."""
        self._observer.did(stage, tokens, cached_tokens)

    def said(self, attempt: Attempt, tokens: int) -> None:
        """Count tokens that came of an attempt."""
        self.delivered(Stage.DECODE, tokens)
        order = attempt.grant.order
        self._registry.unsplit.said(order.replica_id, order.job.key, tokens, time.monotonic())

    async def repeat_unheard(self) -> None:
        """Look after attempts that nothing was heard of, for ever."""
        while True:
            await asyncio.sleep(SILENCE_S / 5)
            silent_since_s = time.monotonic() - SILENCE_S
            for attempt in [a for a in self._running.values() if a.inbox.heard_s < silent_since_s]:
                attempt.inbox.heard_s = time.monotonic()
                self._spawn(attempt.grant.order.job, self._ask_after(attempt))

    async def _ask_after(self, attempt: Attempt) -> None:
        """Queue the task again, in case its message was lost; repeat the flow, in case that was.

        An attempt that the ledger does not know as running will not be heard of any more: its last
        reply was on its way one round ago, and has been lost if there is still silence now.
        """
        if await self._ledger.repeat(attempt.grant.order):
            await attempt.flow.repeat()
        elif attempt.over:
            attempt.inbox.put(Lost("lost"))
        else:
            attempt.over = True

    def _hop(self, request: Request, query: RouteQuery, job: Job) -> Hop:
        waiting = Waiting(
            hop_id=job.key,
            arrival_s=request.arrival_s,
            due_s=request.deadline_s if request.due_s is None else request.due_s,
            deadline_s=request.deadline_s,
            work_s=self._work_s(query),
            priority=request.priority,
        )
        ttl_s = request.deadline_s - time.monotonic() + FORGET_AFTER_S
        return Hop(waiting, query, job, ttl_s, is_over=lambda: request.over)

    def _work_s(self, query: RouteQuery) -> float:
        if query.prompt_tokens:
            return self._registry.unsplit.prompt_s(query.prompt_tokens)
        load = self._registry.load(query.stage, 0)
        rate_tokens_per_s = load.rate_tokens_per_s / max(1, load.live_replicas)
        return query.tokens / rate_tokens_per_s if rate_tokens_per_s else 0.0

    async def _tell(self, job_key: str, verb: str) -> None:
        attempt = self._running.get(job_key)
        if attempt:
            await self._ledger.tell(attempt.grant.order.replica_id, f"{verb} {job_key}")

    def _spawn(self, job: Job, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(_logged(job, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Flow:
    """Holds a decode back while its reader lags behind.

    Messages go out one at a time, so that the last one to arrive is the last one meant.
    """

    __slots__ = ("_meant", "_said", "_saying", "_send", "_spawn")

    def __init__(
        self,
        send: Callable[[str], Coroutine[Any, Any, None]],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._send = send
        self._spawn = spawn
        self._meant = self._said = "resume"
        self._saying = False

    def on_depth(self, replies: int) -> None:
        """Take the number of unread replies."""
        if replies > PAUSE_AT_REPLIES:
            self._meant = "pause"
        elif replies < RESUME_AT_REPLIES:
            self._meant = "resume"
        if self._meant != self._said and not self._saying:
            self._saying = True
            self._spawn(self._say())

    async def repeat(self) -> None:
        """Say again what is meant, in case it was not heard."""
        if not self._saying:
            await self._send(self._meant)

    async def _say(self) -> None:
        try:
            while self._said != self._meant:
                verb = self._meant
                await self._send(verb)
                self._said = verb
        finally:
            self._saying = False


async def _logged(job: Job, work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except LedgerUnavailable as error:
        log.warning("ledger call failed: %s", error, extra=job_fields(job))
