"""A task runs its attempt once, if it still counts, and always gives its credit back."""

from typing import Any

import msgspec
import pytest

from stages.blobs import BlobStoreFull
from stages.engines import BlobUnavailable, DeadlineExceeded, InvalidWork, WorkCancelled
from stages.reply import Failed, Prefilled, Reply
from stages.types import (
    BlobHandle,
    DecodeJob,
    EncodeJob,
    EngineLoad,
    Job,
    KVRef,
    PrefillJob,
    Prompt,
    Sampling,
    Stage,
)
from workers.meter import Meter
from workers.tasks import StageTasks

KV = KVRef(blob=BlobHandle(uri="inline:", sha256="", size_bytes=0, ttl_s=1.0), tokens=2, first_token=3)
JOB = PrefillJob(
    request_id="r",
    hop="prefill",
    attempt=1,
    reply_to="gateway",
    model="tiny",
    deadline_unix_s=4e9,
    prompt=Prompt(token_ids=(5, 6)),
    embeddings=(),
    sampling=Sampling(max_tokens=4),
)


class FakeEngine:
    """Prefills at once, or fails as told."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.jobs: list[PrefillJob] = []
        self.cancelled: list[str] = []

    def prefill(self, job: PrefillJob) -> KVRef:
        self.jobs.append(job)
        if self.error:
            raise self.error
        return KV

    def cancel(self, key: str) -> None:
        self.cancelled.append(key)

    def pause(self, key: str, paused: bool) -> None: ...

    def load(self) -> EngineLoad:
        return EngineLoad()

    def close(self) -> None: ...


class FakeLedger:
    """Knows which attempts count."""

    def __init__(self, current: bool = True) -> None:
        self.current = current

    def is_current(self, job: Job) -> bool:
        return self.current


class FakeWriter:
    """Keeps what was settled."""

    def __init__(self) -> None:
        self.settled: list[Reply] = []
        self.given_back: list[str] = []

    def settle(self, job: Job, reply: Reply) -> None:
        self.settled.append(reply)

    def give_back(self, job: str) -> None:
        self.given_back.append(job)


class Bench:
    """The tasks of one process over fakes."""

    def __init__(self, *, error: Exception | None = None, current: bool = True) -> None:
        self.engine = FakeEngine(error)
        self.ledger = FakeLedger(current)
        self.writer = FakeWriter()
        self.tasks = StageTasks(self.engine, self.ledger, self.writer, Meter())  # type: ignore[arg-type]

    def deliver(self, job: PrefillJob = JOB) -> None:
        body: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(job))
        self.tasks.body(Stage.PREFILL)(body)


def test_a_job_survives_the_wire() -> None:
    bench = Bench()
    bench.deliver()
    assert bench.engine.jobs == [JOB]
    assert bench.writer.settled == [Prefilled(KV)]


def test_a_repeated_delivery_is_dropped() -> None:
    bench = Bench()
    bench.deliver()
    bench.deliver()
    assert len(bench.engine.jobs) == len(bench.writer.settled) == 1


def test_an_overtaken_attempt_costs_nothing_and_gives_its_credit_back() -> None:
    bench = Bench(current=False)
    bench.deliver()
    assert bench.engine.jobs == []
    assert isinstance(bench.writer.settled[0], Failed)


@pytest.mark.parametrize(
    ("error", "kind", "uri"),
    [
        (InvalidWork("no image"), "invalid", ""),
        (BlobUnavailable("shm://a/b", "missing"), "blob", "shm://a/b"),
        (BlobStoreFull("no room"), "full", ""),
        (WorkCancelled(), "cancelled", ""),
        (DeadlineExceeded(), "deadline", ""),
    ],
)
def test_expected_failures_are_replies(error: Exception, kind: str, uri: str) -> None:
    bench = Bench(error=error)
    bench.deliver()
    (reply,) = bench.writer.settled
    assert isinstance(reply, Failed)
    assert (reply.kind, reply.uri) == (kind, uri)


def test_cancelling_running_work_reaches_the_engine() -> None:
    bench = Bench()
    bench.deliver()
    bench.tasks.cancel(JOB.key)
    assert bench.engine.cancelled == [JOB.key]


def test_a_job_cancelled_before_it_arrives_gives_its_credit_back_and_never_runs() -> None:
    bench = Bench()
    bench.tasks.cancel(JOB.key)
    assert bench.writer.given_back == [JOB.key]
    bench.deliver()
    assert bench.engine.jobs == []


@pytest.mark.parametrize("kind", [EncodeJob, PrefillJob, DecodeJob])
def test_msgspec_knows_the_jobs_before_any_thread_asks(kind: type[Job]) -> None:
    """Its first look at a type is not thread-safe: two pool threads at once crashed the process."""
    assert hasattr(kind, "__msgspec_cache__")
