"""Coalesced writes: one thread sends everything that has been produced since its last round trip."""

import logging
import threading
from collections.abc import Callable

import redis

from stages.reply import Reply, Tokens, encode_reply, is_terminal
from stages.types import Job, TokenChunk
from workers.ledger import Event, WorkerLedger

log = logging.getLogger(__name__)


class ReplyWriter:
    """Hands replies to the ledger in order, without ever making the engine's loop wait.

    Args:
        ledger: Where replies go.
        on_stale: Called with the key of each job whose attempt was overtaken, and whether its request is
            forgotten.
    """

    def __init__(self, ledger: WorkerLedger, on_stale: Callable[[str, bool], None]) -> None:
        self._ledger = ledger
        self._on_stale = on_stale
        self._pending: list[tuple[Job, Reply, threading.Event | None]] = []
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="reply-writer", daemon=True)
        self._thread.start()

    def send(self, job: Job, reply: Reply) -> None:
        """Queue a reply."""
        self._put(job, reply, None)

    def settle(self, job: Job, reply: Reply) -> None:
        """Queue the last reply of a job and wait until it is in the ledger."""
        done = threading.Event()
        self._put(job, reply, done)
        done.wait()

    def close(self) -> None:
        """Write what is queued and stop."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _put(self, job: Job, reply: Reply, done: threading.Event | None) -> None:
        with self._wake:
            self._pending.append((job, reply, done))
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._pending and not self._closing:
                    self._wake.wait()
                batch, self._pending = self._pending, []
            if not batch:
                return
            self._write(batch)

    def _write(self, batch: list[tuple[Job, Reply, threading.Event | None]]) -> None:
        events = [_event(job, reply) for job, reply in merge([(job, reply) for job, reply, _ in batch])]
        while True:
            try:
                stale = self._ledger.write(events)
                break
            except (redis.ConnectionError, redis.TimeoutError) as error:
                # The replies are the only copy. If Redis stays away the lease lapses and the process ends.
                log.warning("ledger write failed, trying again: %s", error)
        for key, forgotten in stale:
            self._on_stale(key, forgotten)
        for _, _, done in batch:
            if done:
                done.set()


def merge(replies: list[tuple[Job, Reply]]) -> list[tuple[Job, Reply]]:
    """Join the token chunks of each job that follow one another; the order within a job is kept."""
    merged: list[tuple[Job, Reply]] = []
    last: dict[str, int] = {}
    for job, reply in replies:
        at = last.get(job.key)
        before = merged[at][1] if at is not None else None
        if at is not None and isinstance(before, Tokens) and isinstance(reply, Tokens):
            merged[at] = (job, Tokens(join(before.chunk, reply.chunk)))
        else:
            last[job.key] = len(merged)
            merged.append((job, reply))
    return merged


def join(first: TokenChunk, then: TokenChunk) -> TokenChunk:
    """Return two consecutive chunks as one."""
    return TokenChunk(index=first.index, tokens=first.tokens + then.tokens, finish=then.finish)


def _event(job: Job, reply: Reply) -> Event:
    return job.key, job.reply_to, encode_reply(reply), is_terminal(reply)
