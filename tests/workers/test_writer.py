"""Replies are written in order, coalesced, and never lost to a broken connection."""

import threading

import redis

from stages.reply import Failed, Reply, Tokens, decode_reply
from stages.types import BlobHandle, DecodeJob, FinishReason, KVRef, Sampling, TokenChunk
from workers.ledger import Event
from workers.writer import Entry, ReplyWriter, merge

_KV = KVRef(blob=BlobHandle(uri="inline:", sha256="", size_bytes=0, ttl_s=1.0), tokens=1, first_token=3)


def job(name: str) -> DecodeJob:
    return DecodeJob(
        request_id=name,
        hop="decode",
        attempt=1,
        reply_to="gateway",
        model="tiny",
        deadline_unix_s=0.0,
        kv=_KV,
        sampling=Sampling(max_tokens=4),
    )


def tokens(index: int, *ids: int, finish: FinishReason | None = None) -> Tokens:
    return Tokens(TokenChunk(index=index, tokens=ids, finish=finish))


class FakeLedger:
    """Keeps what is written; refuses the first writes; knows which jobs are overtaken."""

    def __init__(self, failures: int = 0, stale: frozenset[str] = frozenset()) -> None:
        self.batches: list[list[Event]] = []
        self._failures = failures
        self._stale = stale

    def write(self, events: list[Event]) -> list[tuple[str, bool]]:
        if self._failures:
            self._failures -= 1
            raise redis.ConnectionError("away")
        self.batches.append(events)
        return [(event[0], False) for event in events if event[0] in self._stale]

    @property
    def written(self) -> list[tuple[str, Reply]]:
        return [(event[0], decode_reply(event[2])) for batch in self.batches for event in batch]


def entry(name: str, reply: Reply) -> Entry:
    return Entry(name, "gateway", reply)


def test_chunks_that_follow_one_another_become_one() -> None:
    stop = tokens(1, 2, finish=FinishReason.STOP)
    merged = merge([entry("a", tokens(0, 1)), entry("b", tokens(0, 9)), entry("a", stop)])
    assert merged == [entry("a", tokens(0, 1, 2, finish=FinishReason.STOP)), entry("b", tokens(0, 9))]


def test_a_failure_behind_chunks_stays_behind_them() -> None:
    entries = [entry("a", tokens(0, 1)), entry("a", Failed("cancelled", ""))]
    assert merge(entries) == entries


def test_a_job_that_never_came_gives_its_credit_back() -> None:
    ledger = FakeLedger()
    writer = ReplyWriter(ledger, lambda job, forgotten: None)  # type: ignore[arg-type]
    writer.give_back("a|decode|1")
    writer.close()
    ((job, _, _, terminal),) = ledger.batches[0]
    assert (job, terminal) == ("a|decode|1", True)


def test_settling_waits_until_the_reply_is_written() -> None:
    ledger = FakeLedger()
    writer = ReplyWriter(ledger, lambda job, forgotten: None)  # type: ignore[arg-type]
    writer.settle(job("a"), Failed("cancelled", ""))
    assert ledger.written == [("a|decode|1", Failed("cancelled", ""))]
    writer.close()


def test_a_broken_connection_delays_replies_and_keeps_their_order() -> None:
    ledger = FakeLedger(failures=3)
    writer = ReplyWriter(ledger, lambda job, forgotten: None)  # type: ignore[arg-type]
    for index in range(50):
        writer.send(job("a"), tokens(index, index))
    writer.close()
    assert [t for _, reply in ledger.written for t in reply.chunk.tokens] == list(range(50))  # type: ignore[union-attr]


def test_overtaken_jobs_are_reported() -> None:
    heard = threading.Event()
    ledger = FakeLedger(stale=frozenset({"a|decode|1"}))
    writer = ReplyWriter(ledger, lambda job, forgotten: heard.set())  # type: ignore[arg-type]
    writer.send(job("a"), tokens(0, 1))
    assert heard.wait(5.0)
    writer.close()
