"""One replica: a process with one engine, one Celery consumer, one lease."""

import logging
import os
import signal
import time
from collections.abc import Callable

import msgspec
import redis

from orchestrator.broker import TASK_NAMES, celery_app
from orchestrator.ledger import EXIT_FENCED, RENEW_S, queue_name
from stages.engines import Engine
from stages.reply import Lost, encode_reply
from workers import vital
from workers.config import WorkerConfig
from workers.consumer import Consumer
from workers.ledger import WorkerLedger, connect
from workers.meter import Meter
from workers.neighbours import await_callers, meetings
from workers.roles import watching
from workers.tasks import EXIT_ENGINE_CRASHED, StageTasks
from workers.writer import ReplyWriter

log = logging.getLogger(__name__)

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
"""Blocked in every thread, and waited for by the main one. A handler would run in the main thread too, but
only once that wakes, and the kernel may give the signal to a thread that does not wake it."""
EXIT_STEP_HUNG = 70
EXIT_CONSUMER_DIED = 72


class Replica:
    """Wires the parts, then serves until SIGTERM or until it is fenced."""

    def __init__(
        self, config: WorkerConfig, engine: Engine, facts: dict[str, object], release: Callable[[str], None]
    ) -> None:
        """Connect everything; `release` drops a request's blobs from this host's store."""
        self._config = config
        self._engine = engine
        self._facts = facts
        self._stopping = False
        self._meter = Meter()
        client = connect(config.redis_url)
        self._ledger = WorkerLedger(client, config.replica_id, config.stage)
        self._release = release
        self._writer = ReplyWriter(self._ledger, self._overtaken)
        self._tasks = StageTasks(engine, self._ledger, self._writer, self._meter)
        self._consumer = Consumer(
            celery_app(config.broker_url),
            queue_name(config.stage, config.replica_id),
            config.slots,
            TASK_NAMES[config.stage],
            self._tasks.body(config.stage),
            on_death=_consumer_died,
        )

    def run(self) -> int:
        """Serve until one of `STOP_SIGNALS`, which every thread must block. Returns 0 after a drain."""
        self._consumer.start()
        kv_bytes = self._engine.load().total_kv_bytes
        self._ledger.register(msgspec.json.encode(self._facts), self._config.slots, kv_bytes)
        own = (self._keep_lease, self._listen, *watching(self._config))
        for body in (*own, *meetings(self._config, self._engine, self._ledger)):
            vital.start(body, lambda: self._stopping)
        log.info("serving")
        signal.sigwait(STOP_SIGNALS)
        self._stopping = True
        self._drain()
        return 0

    def _overtaken(self, job_key: str, forgotten: bool) -> None:
        self._engine.cancel(job_key)
        if forgotten:  # the gateway released the request's blobs before this job added its own
            try:
                self._release(job_key.partition("|")[0])
            except OSError as error:
                log.warning("blobs left to the sweep: %s", error)

    def _drain(self) -> None:
        """Stop taking work, finish what was dispatched, leave the registry."""
        log.info("draining")
        self._ledger.drain()
        deadline_s = time.monotonic() + self._config.grace_s
        while self._ledger.in_flight() and time.monotonic() < deadline_s:
            time.sleep(0.02)
        await_callers(self._config, self._engine, self._ledger, deadline_s)
        self._consumer.stop()
        self._engine.close()
        self._writer.close()
        lost = self._ledger.leave(encode_reply(Lost("killed")))
        log.info("drained", extra={"lost": lost})

    def _keep_lease(self) -> None:
        while True:
            load = self._engine.load()
            if self._engine.failed:
                log.critical("engine failed: %s", self._engine.failed)
                os._exit(EXIT_ENGINE_CRASHED)
            if load.step_age_s > self._config.hang_s:
                log.critical("engine step hung for %.1f s", load.step_age_s)
                os._exit(EXIT_STEP_HUNG)
            report = msgspec.to_builtins(load) | {
                "rate_tokens_per_s": self._meter.rate_tokens_per_s(),
                "done_tokens": self._meter.total_tokens,
                "busy_s": self._meter.busy_s() + load.called_s,
            }
            try:
                if not self._ledger.heartbeat(msgspec.json.encode(report)) and not self._stopping:
                    log.critical("fenced: another process may hold this work now")
                    os._exit(EXIT_FENCED)
            except redis.RedisError as error:
                log.warning("lease not renewed: %s", error)
            time.sleep(RENEW_S)

    def _listen(self) -> None:
        while True:
            try:
                for message in self._ledger.heard():
                    self._obey(*message.split(" ", 1))
            except redis.RedisError as error:
                log.warning("nothing heard: %s", error)
                time.sleep(RENEW_S)

    def _obey(self, verb: str, job_key: str) -> None:
        if verb == "cancel":
            self._tasks.cancel(job_key)
        else:
            self._engine.pause(job_key, verb == "pause")


def _consumer_died() -> None:
    log.critical("the Celery consumer ended by itself")
    os._exit(EXIT_CONSUMER_DIED)
