"""Hops wait in order of urgency and start only with a credit."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from orchestrator.core.types import Reason, Replica, RouteQuery
from orchestrator.core.waiting import Waiting, WaitingParams
from orchestrator.dispatch import DeadlinePassed, Grant, Hop, StageQueue
from orchestrator.ports import DispatchOrder, DispatchResult, RegisteredReplica, Snapshot
from orchestrator.registry import Registry
from stages.types import BlobHandle, DecodeJob, KVRef, Sampling, Stage

PARAMS = WaitingParams(ttft_s=1.0, stretch=0.0, age_s=10.0, priority_s=10.0)
KV = KVRef(blob=BlobHandle(uri="inline:", sha256="", size_bytes=0, ttl_s=1.0), tokens=1, first_token=3)


@dataclass
class FakeLedger:
    """Slots of one replica; refuses as told."""

    slots: int
    answers: list[DispatchResult] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    meanwhile: Callable[[], object] = lambda: None

    async def dispatch(self, order: DispatchOrder) -> DispatchResult:
        self.meanwhile()
        await asyncio.sleep(0)
        if self.answers:
            return self.answers.pop(0)
        if len(self.held) >= self.slots:
            return DispatchResult.FULL
        self.held.add(order.job.key)
        self.started.append(order.job.request_id)
        return DispatchResult.OK


@dataclass
class Bench:
    """A decode queue in front of one replica."""

    slots: int = 1
    held: bool = False

    def __post_init__(self) -> None:
        self.ledger = FakeLedger(self.slots)
        self.registry = Registry("g")
        self.abandoned: list[Hop] = []
        self.refresh()

    def refresh(self) -> None:
        replica = Replica(
            replica_id="decode.1",
            stage=Stage.DECODE,
            model="tiny",
            slots=self.slots,
            in_flight=len(self.ledger.held),
            total_kv_bytes=100,
            free_kv_bytes=100,
        )
        self.registry.refresh(Snapshot(replicas=(RegisteredReplica(replica=replica, facts={}, load={}),)))

    def queue(self) -> StageQueue:
        return StageQueue(
            Stage.DECODE,
            "g",
            self.ledger,  # type: ignore[arg-type]
            self.registry,
            weights=lambda: {"free_kv": 1.0},
            params=lambda: PARAMS,
            held=lambda: self.held,
            abandon=self.abandoned.append,
            observer=Routes(),
        )

    def finish(self, job: str) -> None:
        self.ledger.held.discard(job)
        self.refresh()


class Routes:
    """Counts nothing."""

    def routed(self, stage: Stage, reason: Reason) -> None: ...


def hop(
    name: str,
    *,
    arrival_s: float = 0.0,
    due_in_s: float = 1.0,
    deadline_in_s: float = 60.0,
    priority: int = 0,
    prompt_tokens: int = 0,
) -> Hop:
    now_s = time.monotonic() + arrival_s
    job = DecodeJob(
        request_id=name,
        hop="decode",
        attempt=1,
        reply_to="g",
        model="tiny",
        deadline_unix_s=0.0,
        kv=KV,
        sampling=Sampling(max_tokens=1),
    )
    waiting = Waiting(
        hop_id=job.key,
        arrival_s=now_s,
        due_s=now_s + due_in_s,
        deadline_s=now_s + deadline_in_s,
        priority=priority,
    )
    query = RouteQuery(
        stage=Stage.DECODE, model="tiny", tokens=1, prefix_tokens={}, prompt_tokens=prompt_tokens
    )
    return Hop(waiting, query, job, 60.0, is_over=lambda: True)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10.0):
            await scenario()

    asyncio.run(bounded())


async def drain(bench: Bench, queue: StageQueue, hops: list[Hop]) -> None:
    """Let every hop have the replica in turn."""

    async def one(waiting: Hop) -> None:
        await queue.acquire(waiting)
        bench.finish(waiting.job.key)
        queue.wake()

    serving = asyncio.create_task(queue.run())
    await asyncio.gather(*(one(waiting) for waiting in hops))
    serving.cancel()


def test_a_tight_request_overtakes_a_hundred_loose_ones() -> None:
    async def scenario() -> None:
        bench = Bench()
        loose = [hop(f"loose-{n}", due_in_s=8.0) for n in range(100)]
        await drain(bench, bench.queue(), [*loose, hop("tight", due_in_s=0.1)])
        assert bench.ledger.started.index("tight") == 0
        assert len(bench.ledger.started) == 101

    run(scenario)


def test_a_loose_request_is_not_starved_by_tight_ones_that_keep_coming() -> None:
    """It goes before all that arrive more than its patience later."""

    async def scenario() -> None:
        bench = Bench()
        stream = [hop(f"tight-{n}", arrival_s=float(n), due_in_s=0.0) for n in range(40)]
        await drain(bench, bench.queue(), [*stream, hop("loose", due_in_s=1_000.0)])
        assert bench.ledger.started.index("loose") <= PARAMS.age_s + 1

    run(scenario)


def test_no_more_than_the_slots_are_in_flight_at_once() -> None:
    async def scenario() -> None:
        bench = Bench(slots=3)
        most = 0
        queue = bench.queue()
        serving = asyncio.create_task(queue.run())

        async def one(waiting: Hop) -> None:
            nonlocal most
            await queue.acquire(waiting)
            most = max(most, len(bench.ledger.held))
            await asyncio.sleep(0)
            bench.finish(waiting.job.key)
            queue.wake()

        await asyncio.gather(*(one(hop(f"r{n}")) for n in range(30)))
        serving.cancel()
        assert most == 3

    run(scenario)


def test_expired_work_is_dropped_before_it_costs_anything() -> None:
    async def scenario() -> None:
        bench = Bench()
        queue = bench.queue()
        serving = asyncio.create_task(queue.run())
        with pytest.raises(DeadlinePassed):
            await queue.acquire(hop("late", deadline_in_s=-1.0))
        serving.cancel()
        assert bench.ledger.started == []
        assert queue.depth == queue.waiting_tokens == 0

    run(scenario)


@pytest.mark.parametrize("refusal", [DispatchResult.FULL, DispatchResult.DRAINING, DispatchResult.GONE])
def test_a_refused_dispatch_waits_for_the_registry_to_change(refusal: DispatchResult) -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.ledger.answers = [refusal]
        queue = bench.queue()
        serving = asyncio.create_task(queue.run())
        waiting = asyncio.create_task(queue.acquire(hop("r")))
        while bench.ledger.answers:
            await asyncio.sleep(0.001)
        assert not waiting.done()
        bench.refresh()
        queue.wake()
        assert isinstance(await waiting, Grant)
        serving.cancel()

    run(scenario)


def test_nothing_starts_while_the_stage_is_held() -> None:
    async def scenario() -> None:
        bench = Bench(held=True)
        queue = bench.queue()
        serving = asyncio.create_task(queue.run())
        waiting = asyncio.create_task(queue.acquire(hop("r")))
        while not queue.depth:
            await asyncio.sleep(0.001)
        assert bench.ledger.started == []
        bench.held = False
        queue.wake()
        await waiting
        serving.cancel()

    run(scenario)


def test_a_hop_that_nobody_waits_for_any_more_is_taken_back() -> None:
    async def scenario() -> None:
        bench = Bench()
        queue = bench.queue()
        serving = asyncio.create_task(queue.run())
        gone = hop("gone")
        bench.ledger.meanwhile = gone.granted.cancel
        waiting = asyncio.create_task(queue.acquire(gone))
        with pytest.raises(asyncio.CancelledError):
            await waiting
        while not bench.abandoned:
            await asyncio.sleep(0.001)
        serving.cancel()
        assert bench.abandoned == [gone]

    run(scenario)


@pytest.mark.parametrize(
    "due_in_s", [pytest.param(60.0, id="until-it-is-gone"), pytest.param(0.5, id="until-due")]
)
def test_a_prompt_waits_for_a_decode_that_it_would_make_late(due_in_s: float) -> None:
    """A second of prompts is known to take a second; the decode that runs can bear none of them."""

    async def scenario() -> None:
        bench = Bench(slots=8)
        unsplit = bench.registry.unsplit
        for job, began_s in (("known", 0.0), ("running", 9.0)):
            facts = {"prompt_tokens": 100, "expected_tokens": 2, "tpot_s": 0.1}
            unsplit.took("decode.1", job, **facts, now_s=began_s)  # type: ignore[arg-type]
            unsplit.said("decode.1", job, 1, began_s + 1.0)
        unsplit.gone("decode.1", "known", 2.0)
        queue = bench.queue()
        serving = asyncio.create_task(queue.run())
        asked_s = time.monotonic()
        waiting = asyncio.create_task(queue.acquire(hop("prompt", due_in_s=due_in_s, prompt_tokens=20)))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.1)
        assert not waiting.done()
        if due_in_s > 1.0:
            unsplit.gone("decode.1", "running", 20.0)
        await waiting
        assert time.monotonic() < asked_s + 5.0
        serving.cancel()

    run(scenario)
