"""Coalesced writes: one thread at a time sends everything that was produced since the last round trip."""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import redis

from stages.reply import Failed, Reply, Tokens, encode_reply, is_terminal
from stages.types import Job, TokenChunk
from workers.ledger import WorkerLedger

log = logging.getLogger(__name__)

EXIT_WRITER_DIED = 73

_RETRY_S = 0.1


@dataclass(frozen=True, slots=True)
class Entry:
    """A reply on its way.

    Attributes:
        job_key: Names the attempt.
        reply_to: Reply stream of the job's gateway.
    """

    job_key: str
    reply_to: str
    reply: Reply


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
        self._pending: list[Entry] = []
        self._wake = threading.Condition()
        self._writing = threading.Lock()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="reply-writer", daemon=True)
        self._thread.start()

    def send(self, job: Job, reply: Reply) -> None:
        """Queue a reply."""
        self._put(Entry(job.key, job.reply_to, reply))

    def settle(self, job: Job, reply: Reply) -> None:
        """Write the last reply of a job, with all that is queued; returns when it is in the ledger."""
        with self._wake:
            self._pending.append(Entry(job.key, job.reply_to, reply))
        # The caller has to wait anyway: writing here saves two thread switches on every hop.
        self._flush()

    def give_back(self, job_key: str) -> None:
        """Queue the end of a job that was cancelled before it came, so that its credit is given back."""
        self._put(Entry(job_key, "", Failed("cancelled", "cancelled before it came")))

    def close(self) -> None:
        """Write what is queued and stop."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        self._flush()

    def _put(self, entry: Entry) -> None:
        with self._wake:
            self._pending.append(entry)
            self._wake.notify()

    def _run(self) -> None:
        while self._wait_for_work():
            self._flush()

    def _wait_for_work(self) -> bool:
        """Return whether there is something to write, once there is or the writer closes."""
        with self._wake:
            while not self._pending and not self._closing:
                self._wake.wait()
            return bool(self._pending)

    def _flush(self) -> None:
        """Write what is queued; when this returns, all that was queued before the call is in the ledger."""
        with self._writing:
            with self._wake:
                batch, self._pending = self._pending, []
            try:
                for job, forgotten in self._write(merge(batch)) if batch else ():
                    self._on_stale(job, forgotten)
            except Exception:
                log.critical("reply writer failed", exc_info=True)
                os._exit(EXIT_WRITER_DIED)  # a replica that takes work and answers nothing is worse than none

    def _write(self, entries: Sequence[Entry]) -> list[tuple[str, bool]]:
        events = [(e.job_key, e.reply_to, encode_reply(e.reply), is_terminal(e.reply)) for e in entries]
        while True:
            try:
                return self._ledger.write(events)
            except redis.RedisError as error:
                # The replies are the only copy. If Redis stays away the lease lapses and the process ends.
                log.warning("ledger write failed, trying again: %s", error)
                time.sleep(_RETRY_S)


def merge(entries: Sequence[Entry]) -> list[Entry]:
    """Join the token chunks of each job that follow one another; the order within a job is kept."""
    merged: list[Entry] = []
    last: dict[str, int] = {}
    for entry in entries:
        at = last.get(entry.job_key)
        before = None if at is None else merged[at].reply
        if at is not None and isinstance(before, Tokens) and isinstance(entry.reply, Tokens):
            merged[at] = replace(entry, reply=Tokens(_join(before.chunk, entry.reply.chunk)))
        else:
            last[entry.job_key] = len(merged)
            merged.append(entry)
    return merged


def _join(first: TokenChunk, then: TokenChunk) -> TokenChunk:
    return TokenChunk(
        index=first.index, tokens=first.tokens + then.tokens, finish=then.finish, raw=first.raw + then.raw
    )
