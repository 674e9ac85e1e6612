"""A ledger in memory that keeps the real one's promises; tests/contracts/test_ledger.py holds it to them."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from orchestrator.core.types import Replica
from orchestrator.ledger import LEASE_MS
from orchestrator.ports import (
    Delivery,
    DispatchOrder,
    DispatchResult,
    LedgerUnavailable,
    RegisteredReplica,
    Snapshot,
)
from stages.reply import LossCause, Lost, decode_reply
from stages.types import Job, Modality, Stage

_ALONE_WAIT_S = 2.0

Event = tuple[str, str, bytes, bool]


@dataclass
class _Replica:
    facts: Mapping[str, Any]
    slots: int
    kv_bytes: int
    load: Mapping[str, Any] = field(default_factory=dict)
    draining: bool = False
    pending_tokens: int = 0
    reserved_kv_bytes: int = 0


@dataclass(frozen=True)
class _Credit:
    tokens: int
    kv_bytes: int
    gateway: str


@dataclass
class FakeLedger:
    """`orchestrator.ports.Ledger` for one process.

    Attributes:
        on_task: Called with each task that is queued, as a worker would take it.
        queued: Tasks by replica, oldest first.
        told: What replicas were told, oldest first.
        memory_usage: As in `Snapshot`.
        away: Nobody can read the registry.
    """

    on_task: Callable[[DispatchOrder], None] = lambda order: None
    queued: dict[str, list[Job]] = field(default_factory=lambda: defaultdict(list))
    told: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    memory_usage: float = 0.0
    away: bool = False

    def __post_init__(self) -> None:
        self._replicas: dict[str, _Replica] = {}
        self._leases: dict[str, float] = {}
        self._gateways: dict[str, bytes] = {}
        self._gateway_leases: dict[str, float] = {}
        self._credits: defaultdict[str, dict[str, _Credit]] = defaultdict(dict)
        self._alone: dict[str, tuple[str, float]] = {}
        self._requests: dict[str, dict[str, tuple[int, str]]] = {}
        self._requests_of: defaultdict[str, set[str]] = defaultdict(set)
        self._replies: defaultdict[str, list[Delivery]] = defaultdict(list)
        self._news = asyncio.Condition()

    # The gateway's side.

    async def greet(self, gateway: str, report: bytes, first: bool) -> bool:
        if not first and gateway not in self._gateway_leases:
            return False
        self._gateway_leases[gateway] = time.monotonic() + LEASE_MS / 1000
        self._gateways[gateway] = report
        return True

    async def snapshot(self) -> Snapshot:
        if self.away:
            raise LedgerUnavailable
        now_s = time.monotonic()
        live = sorted((expiry_s, id_) for id_, expiry_s in self._leases.items() if expiry_s > now_s)
        return Snapshot(
            replicas=tuple(self._registered(id_) for _, id_ in live),
            gateways={
                id_: msgspec.json.decode(self._gateways[id_])
                for id_, expiry_s in self._gateway_leases.items()
                if expiry_s > now_s
            },
            lapsed_replicas=tuple(id_ for id_, expiry_s in self._leases.items() if expiry_s <= now_s),
            lapsed_gateways=tuple(id_ for id_, expiry_s in self._gateway_leases.items() if expiry_s <= now_s),
            memory_usage=self.memory_usage,
        )

    async def dispatch(self, order: DispatchOrder) -> DispatchResult:
        id_, job = order.replica_id, order.job
        if not self._leased(self._leases, id_):
            return DispatchResult.GONE
        replica, held = self._replicas[id_], self._credits[id_]
        if replica.draining:
            return DispatchResult.DRAINING
        if job.key in held:
            return DispatchResult.OK
        known, by = self._holder_of(job.key)
        if known > job.attempt or (known == job.attempt and not by):
            return DispatchResult.OK
        if self._holder(id_) not in ("", job.key):
            return DispatchResult.FULL
        if order.alone:
            self._alone[id_] = (job.key, time.monotonic() + (_ALONE_WAIT_S if held else order.ttl_s))
        if len(held) >= (1 if order.alone else replica.slots):
            return DispatchResult.FULL
        if held and replica.kv_bytes and replica.reserved_kv_bytes + order.kv_bytes > replica.kv_bytes:
            return DispatchResult.FULL
        held[job.key] = _Credit(order.tokens, order.kv_bytes, order.gateway)
        replica.pending_tokens += order.tokens
        replica.reserved_kv_bytes += order.kv_bytes
        self._requests.setdefault(job.request_id, {})[job.hop] = (job.attempt, id_)
        self._requests_of[order.gateway].add(job.request_id)
        self._queue(order)
        return DispatchResult.OK

    async def repeat(self, order: DispatchOrder) -> bool:
        if not self.is_current(order.job.key, order.replica_id):
            return False
        self._queue(order)
        return True

    async def withdraw(self, job_keys: Sequence[str]) -> None:
        for job in job_keys:
            number, replica_id = self._holder_of(job)
            if replica_id and number == int(job.split("|")[2]):
                self._finish(job)
                self._tell(replica_id, f"cancel {job}")

    async def tell(self, replica_id: str, message: str) -> None:
        self._tell(replica_id, message)

    async def close(self, gateway: str, requests: Sequence[str]) -> None:
        for request in requests:
            self._forget(request)
            self._requests_of[gateway].discard(request)

    async def fence(self, replica_id: str, cause: LossCause, only_if_lapsed: bool) -> int | None:
        if only_if_lapsed and self._leased(self._leases, replica_id):
            return None
        lost = 0
        for job in list(self._credits[replica_id]):
            gateway = self._release(replica_id, job)
            if self.is_current(job, replica_id):
                self._finish(job)
                if gateway in self._gateways:
                    self._deliver(gateway, [Delivery(job, Lost(cause))])
                lost += 1
        self._leases.pop(replica_id, None)
        for kept in (self._replicas, self._credits, self._alone, self.told, self.queued):
            kept.pop(replica_id, None)
        return lost

    async def fence_gateway(self, gateway: str, only_if_lapsed: bool) -> tuple[str, ...] | None:
        if only_if_lapsed and self._leased(self._gateway_leases, gateway):
            return None
        requests = tuple(self._requests_of.pop(gateway, ()))
        for request in requests:
            self._forget(request)
        self._gateway_leases.pop(gateway, None)
        self._gateways.pop(gateway, None)
        self._replies.pop(gateway, None)
        return requests

    async def replies(self, gateway: str) -> AsyncIterator[Sequence[Delivery]]:
        while True:
            async with self._news:
                await self._news.wait_for(lambda: self._replies[gateway])
                batch, self._replies[gateway] = self._replies[gateway], []
            yield batch

    # The workers' side, and what tests ask.

    def worker(self, replica_id: str, stage: Stage) -> "FakeWorkerLedger":
        return FakeWorkerLedger(self, replica_id, stage)

    def lapse(self, id_: str) -> None:
        """Let a lease run out."""
        for leases in (self._leases, self._gateway_leases):
            if id_ in leases:
                leases[id_] = 0.0

    def is_current(self, job: str, replica_id: str) -> bool:
        request, hop, attempt = job.split("|")
        return self._requests.get(request, {}).get(hop) == (int(attempt), replica_id)

    def register(self, replica_id: str, facts: bytes, slots: int, kv_bytes: int) -> None:
        self._replicas[replica_id] = _Replica(msgspec.json.decode(facts), slots, kv_bytes)
        self._leases[replica_id] = time.monotonic() + LEASE_MS / 1000

    def renew(self, replica_id: str, load: bytes) -> bool:
        if replica_id not in self._leases:
            return False
        self._leases[replica_id] = time.monotonic() + LEASE_MS / 1000
        self._replicas[replica_id].load = msgspec.json.decode(load)
        return True

    def write(self, replica_id: str, events: Sequence[Event]) -> list[tuple[str, bool]]:
        stale: list[tuple[str, bool]] = []
        for job, reply_to, payload, terminal in events:
            if self.is_current(job, replica_id):
                self._deliver(reply_to, [Delivery(job, decode_reply(payload))])
                if terminal:
                    self._finish(job)
            else:
                stale.append((job, job.split("|")[0] not in self._requests))
            if terminal:
                self._release(replica_id, job)
        return stale

    def drain(self, replica_id: str) -> None:
        if replica_id in self._replicas:
            self._replicas[replica_id].draining = True

    def in_flight(self, replica_id: str) -> int:
        return len(self._credits[replica_id])

    def _leased(self, leases: Mapping[str, float], id_: str) -> bool:
        return leases.get(id_, 0.0) > time.monotonic()

    def _holder(self, replica_id: str) -> str:
        job, until_s = self._alone.get(replica_id, ("", 0.0))
        return job if until_s > time.monotonic() else ""

    def _queue(self, order: DispatchOrder) -> None:
        self.queued[order.replica_id].append(order.job)
        self.on_task(order)

    def _tell(self, replica_id: str, message: str) -> None:
        if replica_id in self._replicas:
            self.told[replica_id].append(message)

    def _holder_of(self, job: str) -> tuple[int, str]:
        """Latest attempt of a job's hop and who is at it, if anybody; its number stays when it is over."""
        request, hop, _ = job.split("|")
        return self._requests.get(request, {}).get(hop, (0, ""))

    def _finish(self, job: str) -> None:
        request, hop, attempt = job.split("|")
        self._requests[request][hop] = (int(attempt), "")

    def _forget(self, request: str) -> None:
        for hop, (attempt, replica_id) in self._requests.pop(request, {}).items():
            if replica_id:
                self._tell(replica_id, f"cancel {request}|{hop}|{attempt}")

    def _release(self, replica_id: str, job: str) -> str:
        credit = self._credits[replica_id].pop(job, None)
        if credit is None:
            return ""
        self._replicas[replica_id].pending_tokens -= credit.tokens
        self._replicas[replica_id].reserved_kv_bytes -= credit.kv_bytes
        if self._holder(replica_id) == job:
            del self._alone[replica_id]
        return credit.gateway

    def _deliver(self, gateway: str, deliveries: Sequence[Delivery]) -> None:
        self._replies[gateway] += deliveries
        asyncio.get_running_loop().create_task(self._announce())

    async def _announce(self) -> None:
        async with self._news:
            self._news.notify_all()

    def _registered(self, id_: str) -> RegisteredReplica:
        known = self._replicas[id_]
        facts, load = known.facts, known.load
        replica = Replica(
            replica_id=id_,
            stage=Stage(facts["stage"]),
            model=facts["model"],
            modalities=frozenset(Modality(name) for name in facts["modalities"]),
            hardware=facts["hardware"],
            domain=tuple(facts["domain"]),
            slots=known.slots,
            in_flight=len(self._credits[id_]),
            pending_tokens=known.pending_tokens,
            free_kv_bytes=max(0, facts["kv_bytes"] - known.reserved_kv_bytes),
            total_kv_bytes=facts["kv_bytes"],
            draining=known.draining,
            quarantined=bool(self._holder(id_)),
            rate_tokens_per_s=load.get("rate_tokens_per_s", 0.0),
        )
        return RegisteredReplica(replica=replica, facts=facts, load=load)


class FakeWorkerLedger:
    """What `workers.ledger.WorkerLedger` offers one replica."""

    def __init__(self, ledger: FakeLedger, replica_id: str, stage: Stage) -> None:
        self._ledger = ledger
        self._id = replica_id
        self.stage = stage

    def register(self, facts: bytes, slots: int, kv_bytes: int) -> None:
        self._ledger.register(self._id, facts, slots, kv_bytes)

    def heartbeat(self, load: bytes) -> bool:
        return self._ledger.renew(self._id, load)

    def is_current(self, job: Job) -> bool:
        return self._ledger.is_current(job.key, self._id)

    def write(self, events: Sequence[Event]) -> list[tuple[str, bool]]:
        return self._ledger.write(self._id, events)

    def drain(self) -> None:
        self._ledger.drain(self._id)

    def in_flight(self) -> int:
        return self._ledger.in_flight(self._id)
