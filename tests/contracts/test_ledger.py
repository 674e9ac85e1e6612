"""One suite for every ledger: the real one over a real redis-server, and the fake that other tests use."""

import asyncio
import contextlib
import functools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.adapters.redis import RedisLedger, connect
from orchestrator.core.types import Replica
from orchestrator.ledger import RENEW_S, control_key, queue_name
from orchestrator.ports import Delivery, DispatchOrder, DispatchResult, Ledger
from stages.reply import Failed, Lost, Reply, Tokens, encode_reply, is_terminal
from stages.types import BlobHandle, DecodeJob, FinishReason, KVRef, Sampling, Stage, TokenChunk
from tests.fakes.ledger import FakeLedger
from tests.fakes.redis_process import RedisProcess
from workers.ledger import WorkerLedger
from workers.ledger import connect as connect_worker

BLOB = BlobHandle(uri="inline:", sha256="", size_bytes=0, ttl_s=1.0)
DONE = Tokens(TokenChunk(index=1, tokens=(), finish=FinishReason.STOP))
OK, FULL = DispatchResult.OK, DispatchResult.FULL


class FakeKit:
    """The fake, and a look inside."""

    def __init__(self) -> None:
        self.ledger = FakeLedger()

    def another(self) -> Ledger:
        return self.ledger

    def worker(self, replica_id: str) -> Any:
        return self.ledger.worker(replica_id, Stage.DECODE)

    def lapse(self, id_: str) -> None:
        self.ledger.lapse(id_)

    def queued(self, replica_id: str) -> int:
        return len(self.ledger.queued.get(replica_id, ()))

    def told(self, replica_id: str) -> list[str]:
        return list(self.ledger.told.get(replica_id, ()))

    def cut(self) -> None:
        pass

    def crowd(self, usage: float) -> None:
        self.ledger.memory_usage = usage

    async def close(self) -> None:
        pass


class RedisKit:
    """The real one, and a look into Redis."""

    def __init__(self, server: RedisProcess) -> None:
        self._server = server
        self._redis = server.client()
        self._redis.flushall()
        self._clients = [connect(server.url)]
        self._worker_redis = connect_worker(server.url)
        self.ledger = RedisLedger(self._clients[0])

    def another(self) -> Ledger:
        """The ledger of a gateway with connections of its own."""
        self._clients.append(connect(self._server.url))
        return RedisLedger(self._clients[-1])

    def worker(self, replica_id: str) -> Any:
        return WorkerLedger(self._worker_redis, replica_id, Stage.DECODE)

    def lapse(self, id_: str) -> None:
        for leases in ("tercet:replicas", "tercet:gateways"):
            self._redis.zadd(leases, {id_: 1}, xx=True)

    def queued(self, replica_id: str) -> int:
        return int(self._redis.llen(queue_name(Stage.DECODE, replica_id)))

    def told(self, replica_id: str) -> list[str]:
        return list(self._redis.lrange(control_key(replica_id), 0, -1))

    def cut(self) -> None:
        self._redis.client_kill_filter(_type="normal", skipme=True)

    def crowd(self, usage: float) -> None:
        """Bound the memory so that so much of it is in use."""
        used = int(self._redis.info("memory")["used_memory"])
        self._redis.config_set("maxmemory", round(used / usage) if usage else 0)

    async def close(self) -> None:
        for client in self._clients:
            await client.aclose()
        self._worker_redis.close()
        self._redis.close()


Kit = FakeKit | RedisKit


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    with RedisProcess(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(params=["fake", "redis"])
def make(request: pytest.FixtureRequest, server: RedisProcess) -> Callable[[], Kit]:
    return FakeKit if request.param == "fake" else functools.partial(RedisKit, server)


def in_loop(test: Callable[[Kit], Awaitable[None]]) -> Callable[[Callable[[], Kit]], None]:
    """Run a test on a fresh ledger with one registered gateway, `g`."""

    def run(make: Callable[[], Kit]) -> None:
        async def body() -> None:
            kit = make()
            try:
                await kit.ledger.greet("g", b"{}", True)
                async with asyncio.timeout(30):
                    await test(kit)
            finally:
                await kit.close()

        asyncio.run(body())

    run.__doc__ = test.__doc__
    run.__name__ = test.__name__
    return run


def job(request: str = "r", attempt: int = 1, hop: str = "decode", gateway: str = "g") -> DecodeJob:
    return DecodeJob(
        request_id=request,
        hop=hop,
        attempt=attempt,
        reply_to=gateway,
        model="tiny",
        deadline_unix_s=4e9,
        kv=KVRef(blob=BLOB, tokens=1, first_token=3),
        sampling=Sampling(max_tokens=4),
    )


def order(work: DecodeJob, replica: str = "d.1", **fields: Any) -> DispatchOrder:
    given: dict[str, Any] = {"tokens": 10, "kv_bytes": 100, "alone": False, "ttl_s": 60.0}
    return DispatchOrder(replica_id=replica, job=work, gateway=work.reply_to, **given | fields)


def joined(kit: Kit, replica: str = "d.1", slots: int = 2) -> Any:
    worker = kit.worker(replica)
    facts = {
        "stage": "decode",
        "model": "tiny",
        "modalities": ["text"],
        "hardware": "cpu",
        "domain": ["zone-1"],
        "kv_bytes": 1_000,
    }
    worker.register(msgspec.json.encode(facts), slots, 1_000)
    return worker


def event(work: DecodeJob, reply: Reply = DONE) -> tuple[str, str, bytes, bool]:
    return work.key, work.reply_to, encode_reply(reply), is_terminal(reply)


async def replica(kit: Kit, id_: str = "d.1") -> Replica:
    found = [e.replica for e in (await kit.ledger.snapshot()).replicas if e.replica.replica_id == id_]
    assert found, f"{id_} is not registered"
    return found[0]


class Ear:
    """Hears what arrives for a gateway."""

    def __init__(self) -> None:
        self.heard: list[Delivery] = []

    async def until(self, count: int) -> list[tuple[str, Reply]]:
        while len(self.heard) < count:
            await asyncio.sleep(0.005)
        return [(delivery.job_key, delivery.reply) for delivery in self.heard]


@asynccontextmanager
async def listening(ledger: Ledger, gateway: str = "g") -> AsyncIterator[Ear]:
    ear = Ear()

    async def listen() -> None:
        async for batch in ledger.replies(gateway):
            ear.heard += batch

    task = asyncio.create_task(listen())
    try:
        yield ear
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@in_loop
async def test_a_registered_replica_is_in_the_snapshot_with_its_facts_and_load(kit: Kit) -> None:
    worker = joined(kit)
    assert worker.heartbeat(msgspec.json.encode({"rate_tokens_per_s": 5.0, "batch_size": 1}))
    snapshot = await kit.ledger.snapshot()
    assert snapshot.replicas[0].load["batch_size"] == 1
    assert snapshot.replicas[0].replica == Replica(
        replica_id="d.1",
        stage=Stage.DECODE,
        model="tiny",
        modalities=snapshot.replicas[0].replica.modalities,
        hardware="cpu",
        domain=("zone-1",),
        slots=2,
        free_kv_bytes=1_000,
        total_kv_bytes=1_000,
        rate_tokens_per_s=5.0,
    )
    assert dict(snapshot.gateways) == {"g": {}}


@in_loop
async def test_the_snapshot_tells_how_full_the_ledger_is(kit: Kit) -> None:
    """0.0 means that nothing bounds it."""
    for usage in (0.8, 0.4, 0.0):
        kit.crowd(usage)
        assert abs((await kit.ledger.snapshot()).memory_usage - usage) < 0.1


@in_loop
async def test_dispatching_the_same_attempt_again_changes_nothing(kit: Kit) -> None:
    joined(kit)
    for _ in range(3):
        assert await kit.ledger.dispatch(order(job())) is OK
    now = await replica(kit)
    assert (now.in_flight, now.pending_tokens, now.free_kv_bytes) == (1, 10, 900)
    assert kit.queued("d.1") == 1


@in_loop
async def test_slots_bound_the_credits_and_a_terminal_write_gives_one_back(kit: Kit) -> None:
    worker = joined(kit, slots=2)
    results = [await kit.ledger.dispatch(order(job(name))) for name in "abc"]
    assert results == [OK, OK, FULL]
    assert worker.write([event(job("a"))]) == []
    assert (await replica(kit)).in_flight == worker.in_flight() == 1
    assert await kit.ledger.dispatch(order(job("c"))) is OK
    worker.write([event(job(name)) for name in "bc"])
    idle = await replica(kit)
    assert (idle.in_flight, idle.pending_tokens, idle.free_kv_bytes) == (0, 0, 1_000)


@in_loop
async def test_tokens_before_the_last_keep_the_credit(kit: Kit) -> None:
    worker = joined(kit)
    await kit.ledger.dispatch(order(job()))
    worker.write([event(job(), Tokens(TokenChunk(index=0, tokens=(4,))))])
    assert (await replica(kit)).in_flight == 1


@in_loop
async def test_work_that_must_run_alone_waits_for_an_idle_replica_and_keeps_others_away(kit: Kit) -> None:
    worker = joined(kit, slots=4)
    assert await kit.ledger.dispatch(order(job("a"))) is OK
    assert await kit.ledger.dispatch(order(job("suspect"), alone=True)) is FULL
    assert (await replica(kit)).quarantined
    assert await kit.ledger.dispatch(order(job("b"))) is FULL
    worker.write([event(job("a"))])
    assert await kit.ledger.dispatch(order(job("b"))) is FULL
    assert await kit.ledger.dispatch(order(job("suspect"), alone=True)) is OK
    assert await kit.ledger.dispatch(order(job("b"))) is FULL
    worker.write([event(job("suspect"))])
    assert not (await replica(kit)).quarantined
    assert await kit.ledger.dispatch(order(job("b"))) is OK


@in_loop
async def test_a_draining_a_lapsed_and_an_unknown_replica_take_nothing(kit: Kit) -> None:
    joined(kit, "d.1").drain()
    joined(kit, "d.2")
    kit.lapse("d.2")
    results = [await kit.ledger.dispatch(order(job(), id_)) for id_ in ("d.1", "d.2", "d.3")]
    assert results == [DispatchResult.DRAINING, DispatchResult.GONE, DispatchResult.GONE]
    snapshot = await kit.ledger.snapshot()
    assert [e.replica.draining for e in snapshot.replicas] == [True]
    assert snapshot.lapsed_replicas == ("d.2",)


@in_loop
async def test_fencing_reports_each_job_as_lost_once_and_makes_later_writes_stale(kit: Kit) -> None:
    worker = joined(kit)
    for name in "ab":
        await kit.ledger.dispatch(order(job(name)))
    async with listening(kit.ledger) as ear:
        assert await kit.ledger.fence("d.1", "crash", False) == 2
        assert await kit.ledger.fence("d.1", "crash", False) == 0
        assert [key for key, _ in worker.write([event(job("a")), event(job("b"))])] == [
            job("a").key,
            job("b").key,
        ]
        await kit.ledger.dispatch(order(job("a", 2)))
        heard = await ear.until(2)
    assert sorted(heard, key=str) == [(job("a").key, Lost("crash")), (job("b").key, Lost("crash"))]
    assert not worker.heartbeat(b"{}")
    assert (await kit.ledger.snapshot()).replicas == ()
    assert (kit.queued("d.1"), kit.told("d.1")) == (0, [])


@in_loop
async def test_a_live_lease_protects_from_fencing_on_suspicion(kit: Kit) -> None:
    joined(kit)
    await kit.ledger.dispatch(order(job()))
    assert await kit.ledger.fence("d.1", "lost", True) is None
    assert (await replica(kit)).in_flight == 1
    kit.lapse("d.1")
    assert await kit.ledger.fence("d.1", "lost", True) == 1


@in_loop
async def test_a_newer_attempt_makes_the_older_one_stale(kit: Kit) -> None:
    """Its credit is given back by its own last write all the same."""
    old, new = joined(kit, "d.1"), joined(kit, "d.2")
    await kit.ledger.dispatch(order(job(attempt=1), "d.1"))
    await kit.ledger.dispatch(order(job(attempt=2), "d.2"))
    assert not old.is_current(job(attempt=1))
    assert new.is_current(job(attempt=2))
    async with listening(kit.ledger) as ear:
        assert old.write([event(job(attempt=1))]) == [(job(attempt=1).key, False)]
        assert new.write([event(job(attempt=2))]) == []
        assert await ear.until(1) == [(job(attempt=2).key, DONE)]
    assert (await replica(kit, "d.1")).in_flight == 0


@in_loop
async def test_withdrawing_tells_the_replica_and_makes_the_attempt_stale(kit: Kit) -> None:
    worker = joined(kit)
    await kit.ledger.dispatch(order(job()))
    await kit.ledger.withdraw([job().key])
    await kit.ledger.withdraw([job().key])
    assert kit.told("d.1") == [f"cancel {job().key}"]
    assert not worker.is_current(job())
    assert (await replica(kit)).in_flight == 1, "the replica may still be at it"
    assert [key for key, _ in worker.write([event(job(), Failed("cancelled", ""))])] == [job().key]
    assert (await replica(kit)).in_flight == 0


@in_loop
async def test_withdrawing_an_overtaken_attempt_leaves_the_newer_one_alone(kit: Kit) -> None:
    worker = joined(kit)
    await kit.ledger.dispatch(order(job(attempt=1)))
    await kit.ledger.dispatch(order(job(attempt=2)))
    await kit.ledger.withdraw([job(attempt=1).key])
    assert worker.is_current(job(attempt=2))
    assert kit.told("d.1") == []


@in_loop
async def test_closing_a_request_cancels_all_of_its_hops_and_no_others(kit: Kit) -> None:
    worker = joined(kit, slots=8)
    for work in (job(hop="encode.0"), job(hop="encode.1"), job("other")):
        await kit.ledger.dispatch(order(work))
    await kit.ledger.close("g", ["r"])
    assert sorted(kit.told("d.1")) == ["cancel r|encode.0|1", "cancel r|encode.1|1"]
    assert worker.write([event(job(hop="encode.0"))]) == [("r|encode.0|1", True)], "nobody serves it any more"
    assert worker.is_current(job("other"))


@in_loop
async def test_a_fenced_gateway_is_told_so_and_its_requests_are_cancelled(kit: Kit) -> None:
    worker = joined(kit)
    await kit.ledger.greet("h", b"{}", True)
    await kit.ledger.dispatch(order(job("mine", gateway="h")))
    await kit.ledger.dispatch(order(job("other")))
    assert await kit.ledger.fence_gateway("h", True) is None
    kit.lapse("h")
    assert (await kit.ledger.snapshot()).lapsed_gateways == ("h",)
    assert await kit.ledger.fence_gateway("h", True) == ("mine",)
    assert await kit.ledger.fence_gateway("h", False) == ()
    assert not await kit.ledger.greet("h", b"{}", False)
    assert await kit.ledger.greet("g", b"{}", False)
    assert kit.told("d.1") == ["cancel mine|decode|1"]
    assert worker.is_current(job("other"))
    assert set((await kit.ledger.snapshot()).gateways) == {"g"}


@in_loop
async def test_a_task_is_queued_again_only_while_its_attempt_counts(kit: Kit) -> None:
    worker = joined(kit)
    await kit.ledger.dispatch(order(job()))
    assert await kit.ledger.repeat(order(job()))
    assert kit.queued("d.1") == 2
    worker.write([event(job())])
    assert not await kit.ledger.repeat(order(job()))
    assert kit.queued("d.1") == 2


@in_loop
async def test_dispatching_an_attempt_that_is_over_starts_nothing(kit: Kit) -> None:
    """A gateway whose connection broke asks again; meanwhile the replica may have done the work."""
    worker = joined(kit)
    await kit.ledger.dispatch(order(job()))
    worker.write([event(job())])
    assert await kit.ledger.dispatch(order(job())) is OK
    assert ((await replica(kit)).in_flight, kit.queued("d.1")) == (0, 1)


@in_loop
async def test_kv_memory_bounds_the_credits_too(kit: Kit) -> None:
    """But a replica that is idle takes any job: what is too big for it is found there."""
    worker = joined(kit, slots=8)
    assert await kit.ledger.dispatch(order(job("big"), kv_bytes=5_000)) is OK
    assert await kit.ledger.dispatch(order(job("small"), kv_bytes=1)) is FULL
    worker.write([event(job("big"))])
    assert await kit.ledger.dispatch(order(job("a"), kv_bytes=600)) is OK
    assert await kit.ledger.dispatch(order(job("b"), kv_bytes=500)) is FULL
    assert await kit.ledger.dispatch(order(job("b"), kv_bytes=400)) is OK


@in_loop
async def test_replies_come_in_order_and_once_across_lost_connections(kit: Kit) -> None:
    """300 chunks of three jobs, with every connection cut six times on the way."""
    worker = joined(kit, slots=3)
    jobs = [job(name) for name in "abc"]
    for work in jobs:
        await kit.ledger.dispatch(order(work))
    async with listening(kit.ledger) as ear:
        for index in range(100):
            chunk = Tokens(TokenChunk(index=index, tokens=(index,)))
            worker.write([event(work, chunk) for work in jobs])
            if index % 17 == 0:
                await asyncio.sleep(0.01)
                kit.cut()
        heard = await ear.until(300)
    for work in jobs:
        mine = [reply.chunk.index for key, reply in heard if key == work.key and isinstance(reply, Tokens)]
        assert mine == list(range(100))


@in_loop
async def test_what_a_replica_is_told_reaches_it_in_order(kit: Kit) -> None:
    joined(kit)
    await kit.ledger.tell("d.1", "pause x")
    await kit.ledger.tell("d.1", "resume x")
    assert kit.told("d.1") == ["pause x", "resume x"]


@in_loop
async def test_two_gateways_never_over_commit_a_replica(kit: Kit) -> None:
    """80 jobs of two gateways fight for five slots, some alone; the credits are never too many."""
    await kit.ledger.greet("h", b"{}", True)
    slots = {"d.1": 2, "d.2": 3}
    workers = {id_: joined(kit, id_, count) for id_, count in slots.items()}
    ledgers = {"g": kit.ledger, "h": kit.another()}
    rng = random.Random(7)
    running: dict[str, set[str]] = {id_: set() for id_ in slots}
    alone: dict[str, set[str]] = {id_: set() for id_ in slots}

    async def serve(number: int) -> None:
        gateway = "gh"[number % 2]
        work, suspect = job(f"r{number}", gateway=gateway), number % 10 == 0
        while True:
            id_ = rng.choice(list(slots))
            if await ledgers[gateway].dispatch(order(work, id_, alone=suspect)) is OK:
                break
            await asyncio.sleep(rng.random() * 0.01)
        running[id_].add(work.key)
        alone[id_] |= {work.key} if suspect else set()
        assert len(running[id_]) <= (1 if alone[id_] else slots[id_])
        await asyncio.sleep(rng.random() * 0.01)
        running[id_].discard(work.key)
        alone[id_].discard(work.key)
        workers[id_].write([event(work)])

    async def live() -> None:
        while True:
            for gateway, ledger in ledgers.items():
                await ledger.greet(gateway, b"{}", False)
            for worker in workers.values():
                worker.heartbeat(b"{}")
            await asyncio.sleep(RENEW_S)

    living = asyncio.create_task(live())
    await asyncio.gather(*(serve(number) for number in range(80)))
    living.cancel()
    assert [
        (e.replica.in_flight, e.replica.pending_tokens) for e in (await kit.ledger.snapshot()).replicas
    ] == [
        (0, 0),
        (0, 0),
    ]


STEP = st.one_of(
    st.tuples(
        st.just("dispatch"),
        st.sampled_from(["d.1", "d.2"]),
        st.sampled_from("abc"),
        st.integers(1, 2),
        st.booleans(),
        st.sampled_from("gh"),
    ),
    st.tuples(
        st.just("write"),
        st.sampled_from(["d.1", "d.2"]),
        st.sampled_from("abc"),
        st.integers(1, 2),
        st.booleans(),
        st.sampled_from("gh"),
    ),
    st.tuples(st.just("withdraw"), st.sampled_from("abc"), st.integers(1, 2)),
    st.tuples(st.just("close"), st.sampled_from("gh"), st.sampled_from("abc")),
    st.tuples(st.just("fence"), st.sampled_from(["d.1", "d.2"])),
    st.tuples(st.just("join"), st.sampled_from(["d.3", "d.4"])),
    st.tuples(st.just("drain"), st.just("d.2")),
    st.tuples(st.just("fence_gateway"), st.just("h")),
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEP, max_size=25))
def test_the_fake_does_what_redis_does(server: RedisProcess, steps: list[tuple[Any, ...]]) -> None:
    """Whatever happens in whatever order: the same results, the same registry, the same orders."""

    async def history(kit: Kit) -> list[object]:
        try:
            for gateway in "gh":
                await kit.ledger.greet(gateway, b"{}", True)
            for id_ in ("d.1", "d.2"):
                joined(kit, id_)
            return [await take(kit, *step) for step in steps]
        finally:
            await kit.close()

    async def both() -> tuple[list[object], list[object]]:
        return await history(FakeKit()), await history(RedisKit(server))

    fake, real = asyncio.run(both())
    assert fake == real


async def take(kit: Kit, what: str, *given: Any) -> object:
    """Take a step; return its result and all that can be seen afterwards."""
    ledger = kit.ledger
    result: object = None
    if what == "dispatch":
        id_, request, attempt, alone, gateway = given
        result = await ledger.dispatch(order(job(request, attempt, gateway=gateway), id_, alone=alone))
    elif what == "write":
        id_, request, attempt, last, gateway = given
        reply = DONE if last else Tokens(TokenChunk(index=0, tokens=(4,)))
        result = kit.worker(id_).write([event(job(request, attempt, gateway=gateway), reply)])
    elif what == "withdraw":
        await ledger.withdraw([job(*given).key])
    elif what == "close":
        await ledger.close(given[0], [given[1]])
    elif what == "fence":
        result = await ledger.fence(given[0], "killed", False)
    elif what == "fence_gateway":
        result = sorted(await ledger.fence_gateway(given[0], False) or ())
    elif what == "join":
        joined(kit, given[0])
    elif what == "drain":
        kit.worker(given[0]).drain()
    seen = sorted((await ledger.snapshot()).replicas, key=lambda e: e.replica.replica_id)
    ids = ("d.1", "d.2", "d.3", "d.4")
    # Redis cancels the requests of a gateway in the order of a set, which is none.
    told = [(sorted(kit.told(id_)), kit.queued(id_)) for id_ in ids]
    return what, result, [e.replica for e in seen], told
