"""The ledger over redis.asyncio."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from orchestrator.broker import task_message
from orchestrator.core.types import Replica
from orchestrator.ledger import LEASE_MS, queue_name, replies_key, script
from orchestrator.ports import (
    Delivery,
    DispatchOrder,
    DispatchResult,
    LedgerUnavailable,
    RegisteredReplica,
    Snapshot,
)
from stages.reply import LossCause, Lost, decode_reply, encode_reply
from stages.types import Modality, Stage, stage_of

log = logging.getLogger(__name__)

_TRIM_EVERY_ENTRIES = 64
_BLOCK_MS = 1_000
_CONNECTIONS = 64
_POOL_WAIT_S = 10.0


def connect(redis_url: str, *, patient: bool = True) -> redis.asyncio.Redis:
    """Return a client; a patient one rides out a restart of the server of up to about 10 s."""
    retry = Retry(ExponentialBackoff(cap=0.5, base=0.02), retries=24 if patient else 0)
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        redis_url,
        retry=retry,
        retry_on_error=[redis.ConnectionError, redis.TimeoutError],
        max_connections=_CONNECTIONS,
        timeout=_POOL_WAIT_S,
        # A cable that is cut says nothing: without these a call would hang for as long as TCP hopes.
        socket_connect_timeout=2.0,
        socket_timeout=5.0,
    )
    return redis.asyncio.Redis.from_pool(pool)


class RedisLedger:
    """`orchestrator.ports.Ledger` in one Redis."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis = client
        names = (
            "greet",
            "snapshot",
            "dispatch",
            "repeat",
            "withdraw",
            "tell",
            "close",
            "fence",
            "fence_gateway",
        )
        self._scripts = {name: client.register_script(script(name)) for name in names}

    async def greet(self, gateway: str, report: bytes, first: bool) -> bool:
        """See `Ledger.greet`."""
        return bool(await self._run("greet", gateway, LEASE_MS, report, _flag(first)) == b"ok")

    async def snapshot(self) -> Snapshot:
        """See `Ledger.snapshot`."""
        replicas, gateways, lapsed_replicas, lapsed_gateways, used, allowed = await self._run("snapshot")
        return Snapshot(
            replicas=tuple(_registered(fields) for fields in replicas),
            gateways={id_.decode(): msgspec.json.decode(report) for id_, report in gateways},
            lapsed_replicas=tuple(id_.decode() for id_ in lapsed_replicas),
            lapsed_gateways=tuple(id_.decode() for id_ in lapsed_gateways),
            memory_usage=used / allowed if allowed else 0.0,
        )

    async def dispatch(self, order: DispatchOrder) -> DispatchResult:
        """See `Ledger.dispatch`."""
        ttl_ms = max(1, int(order.ttl_s * 1000))
        result = await self._run(
            "dispatch", order.replica_id, order.job.key, order.gateway, order.tokens, order.kv_bytes,
            _flag(order.alone), ttl_ms, _queue(order), task_message(order.job, _queue(order)),
        )  # fmt: skip
        return DispatchResult(result.decode())

    async def repeat(self, order: DispatchOrder) -> bool:
        """See `Ledger.repeat`."""
        queue = _queue(order)
        message = task_message(order.job, queue)
        return bool(await self._run("repeat", order.replica_id, order.job.key, queue, message) == b"ok")

    async def withdraw(self, job_keys: Sequence[str]) -> None:
        """See `Ledger.withdraw`."""
        await self._run("withdraw", *job_keys)

    async def tell(self, replica_id: str, message: str) -> None:
        """See `Ledger.tell`."""
        await self._run("tell", replica_id, message)

    async def close(self, gateway: str, requests: Sequence[str]) -> None:
        """See `Ledger.close`."""
        await self._run("close", gateway, *requests)

    async def fence(self, replica_id: str, cause: LossCause, only_if_lapsed: bool) -> int | None:
        """See `Ledger.fence`."""
        queues = [queue_name(stage, replica_id) for stage in Stage]
        lost = await self._run("fence", replica_id, encode_reply(Lost(cause)), _flag(only_if_lapsed), *queues)
        return None if lost < 0 else int(lost)

    async def fence_gateway(self, gateway: str, only_if_lapsed: bool) -> tuple[str, ...] | None:
        """See `Ledger.fence_gateway`."""
        requests = await self._run("fence_gateway", gateway, _flag(only_if_lapsed))
        return None if requests is None else tuple(id_.decode() for id_ in requests)

    async def replies(self, gateway: str) -> AsyncIterator[Sequence[Delivery]]:
        """See `Ledger.replies`. The stream is trimmed behind what has been handed out."""
        stream, last, read = replies_key(gateway), "0-0", 0
        task = asyncio.current_task()
        while not (task and task.cancelling()):  # wait_for, inside the client, can swallow a cancellation
            try:
                result = await self._redis.xread({stream: last}, count=512, block=_BLOCK_MS)
                if result:
                    entries = _entries(result)
                    last = entries[-1][0].decode()
                    yield [
                        Delivery(field.decode().partition("#")[0], decode_reply(payload))
                        for _, fields in entries
                        for field, payload in fields.items()
                    ]
                    read += len(entries)
                if read >= _TRIM_EVERY_ENTRIES or (read and not result):
                    await self._redis.xtrim(stream, minid=_after(last), approximate=False)
                    read = 0
            except redis.RedisError as error:
                log.warning("reply stream unreadable, trying again: %s", error)
                await asyncio.sleep(0.1)

    async def _run(self, name: str, *args: Any) -> Any:
        try:
            return await self._scripts[name](args=args)
        except redis.RedisError as error:
            raise LedgerUnavailable(str(error)) from error


def _entries(result: Any) -> list[Any]:
    """Return the entries of the one stream that was read, under either protocol version."""
    entries: list[Any] = result[0][1] if isinstance(result, list) else next(iter(result.values()))[0]
    return entries


def _after(entry_id: str) -> str:
    """Return the smallest stream id above `entry_id`, so that trimming takes the entry itself too."""
    millis, _, sequence = entry_id.partition("-")
    return f"{millis}-{int(sequence) + 1}"


def _queue(order: DispatchOrder) -> str:
    return queue_name(stage_of(order.job.hop), order.replica_id)


def _flag(value: bool) -> str:
    return "1" if value else ""


def _registered(fields: Sequence[Any]) -> RegisteredReplica:
    id_, facts_json, load_json, state, slots, in_flight, pending_tokens, reserved_kv_bytes, alone = fields
    facts, load = msgspec.json.decode(facts_json), msgspec.json.decode(load_json)
    replica = Replica(
        replica_id=id_.decode(),
        stage=Stage(facts["stage"]),
        model=facts["model"],
        modalities=frozenset(Modality(name) for name in facts["modalities"]),
        hardware=facts["hardware"],
        domain=tuple(facts["domain"]),
        slots=int(slots),
        in_flight=int(in_flight),
        pending_tokens=int(pending_tokens),
        free_kv_bytes=max(0, facts["kv_bytes"] - int(reserved_kv_bytes)),
        total_kv_bytes=facts["kv_bytes"],
        draining=state != b"live",
        quarantined=bool(alone),
        rate_tokens_per_s=load.get("rate_tokens_per_s", 0.0),
    )
    return RegisteredReplica(replica=replica, facts=facts, load=load)
