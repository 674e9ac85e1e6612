"""The three tasks, each thin: parse → does the attempt still count? → call the engine → write the reply."""

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, cast

import msgspec
import redis

from orchestrator.logs import job_fields
from stages.blobs import BlobStoreFull
from stages.engines import (
    AnswerDiverged,
    BlobUnavailable,
    DeadlineExceeded,
    DecodeEngine,
    EncodeEngine,
    Engine,
    EngineRefused,
    InvalidWork,
    PrefillEngine,
    StageError,
    WorkCancelled,
)
from stages.reply import Encoded, Failed, FailureKind, Prefilled, Reply, Tokens
from stages.types import DecodeJob, EncodeJob, Job, PrefillJob, Stage, TokenChunk
from workers.ledger import WorkerLedger
from workers.meter import Meter
from workers.writer import ReplyWriter

log = logging.getLogger(__name__)

EXIT_ENGINE_CRASHED = 71

# msgspec works out a type's layout on first use and keeps it on the class. Pool threads that do so at the
# same time see each other's half of it and crash the process (0.22), so it is done here, once, beforehand.
for _job in (EncodeJob, PrefillJob, DecodeJob):
    msgspec.json.Decoder(_job)

_REMEMBER_S = 600.0
_SEEN_AT_LEAST = 1_000

_KINDS: dict[type[StageError], FailureKind] = {
    InvalidWork: "invalid",
    BlobUnavailable: "blob",
    BlobStoreFull: "full",
    WorkCancelled: "cancelled",
    DeadlineExceeded: "deadline",
    EngineRefused: "refused",
    AnswerDiverged: "diverged",
}


class StageTasks:
    """What the tasks of one process share: its engine, its ledger, its writer and its meter."""

    def __init__(self, engine: Engine, ledger: WorkerLedger, writer: ReplyWriter, meter: Meter) -> None:
        self._engine = engine
        self._ledger = ledger
        self._writer = writer
        self._meter = meter
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, float] = OrderedDict()

    def body(self, stage: Stage) -> Callable[[dict[str, Any]], None]:
        """Return the task function of a stage."""
        return {Stage.ENCODE: self.encode, Stage.PREFILL: self.prefill, Stage.DECODE: self.decode}[stage]

    def encode(self, body: dict[str, Any]) -> None:
        """Encode the media item behind the job's handle. Safe to run twice."""
        job = msgspec.convert(body, EncodeJob)
        engine = cast("EncodeEngine", self._engine)
        self._run(job, lambda: Encoded(engine.encode(job)))

    def prefill(self, body: dict[str, Any]) -> None:
        """Prefill the job's prompt. Safe to run twice."""
        job = msgspec.convert(body, PrefillJob)
        engine = cast("PrefillEngine", self._engine)
        self._run(job, lambda: Prefilled(engine.prefill(job)))

    def decode(self, body: dict[str, Any]) -> None:
        """Decode behind the job's KV; its last token chunk is the reply that ends it. Safe to run twice."""
        job = msgspec.convert(body, DecodeJob)
        engine = cast("DecodeEngine", self._engine)

        def emit(chunk: TokenChunk) -> None:
            self._meter.count(len(chunk.tokens))
            self._writer.send(job, Tokens(chunk))

        def decode() -> None:
            engine.decode(job, emit)

        self._run(job, decode)

    def cancel(self, key: str) -> None:
        """Stop the job with this key.

        One that has not arrived gives its credit back here, and is dropped if it still comes.
        """
        if self._is_new(key, time.time() + _REMEMBER_S):
            self._writer.give_back(key)
        else:
            self._engine.cancel(key)

    def _run(self, job: Job, work: Callable[[], Reply | None]) -> None:
        if not self._is_new(job.key, job.deadline_unix_s):
            return
        started_s = time.monotonic()
        if self._still_counts(job):
            with self._meter.busy():
                reply = self._attempt(job, work)
            if isinstance(reply, Encoded | Prefilled):
                self._meter.count(reply.ref.tokens)
        else:
            reply = Failed("cancelled", "overtaken before it started")
        if reply is not None:
            self._writer.settle(job, reply)
        log.info("hop", extra=job_fields(job) | {"outcome": _outcome(reply), "work_s": _since(started_s)})

    def _still_counts(self, job: Job) -> bool:
        try:
            return self._ledger.is_current(job)
        except redis.RedisError as error:
            log.warning("cannot tell whether the attempt counts, so it is not made: %s", error)
            return False

    def _attempt(self, job: Job, work: Callable[[], Reply | None]) -> Reply | None:
        try:
            return work()
        except StageError as error:
            log.info("%s ended: %s", job.hop, error, extra=job_fields(job))
            uri = error.uri if isinstance(error, BlobUnavailable) else ""
            return Failed(_KINDS[type(error)], str(error), uri)
        except Exception:
            # The engine broke its promise, so nothing it holds can be trusted. The process ends; the
            # supervisor reports the crash and its jobs are retried elsewhere.
            log.critical("engine crashed", exc_info=True, extra=job_fields(job))
            os._exit(EXIT_ENGINE_CRASHED)

    def _is_new(self, key: str, until_unix_s: float) -> bool:
        """Whether this attempt was never seen. Gateways repeat themselves after lost connections."""
        with self._lock:
            if key in self._seen:
                return False
            self._seen[key] = until_unix_s
            self._forget_old(time.time())
            return True

    def _forget_old(self, now_unix_s: float) -> None:
        # Two at a time from the old end: bounded work, and it shrinks faster than it grows.
        for _ in range(2):
            oldest = next(iter(self._seen))
            if len(self._seen) < _SEEN_AT_LEAST or self._seen[oldest] > now_unix_s:
                return
            del self._seen[oldest]


def _outcome(reply: Reply | None) -> str:
    return reply.kind if isinstance(reply, Failed) else "done"


def _since(started_s: float) -> float:
    return round(time.monotonic() - started_s, 6)
