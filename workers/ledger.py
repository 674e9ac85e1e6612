"""The worker's side of the ledger: lease, fencing and results, over one blocking Redis client."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from orchestrator.ledger import LEASE_MS, control_key, credits_key, queue_name, request_key, script
from stages.types import Job, Stage

log = logging.getLogger(__name__)

Event = tuple[str, str, bytes, bool]
"""Job key, reply stream, payload, whether the attempt ends with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A replica whose lease runs, as others see it.

    Attributes:
        peer_url: Where other engines reach its engine; empty if they do not.
        calls: Where other engines are that its own may call.
    """

    stage: Stage
    peer_url: str
    draining: bool
    calls: frozenset[str]


def connect(redis_url: str) -> redis.Redis:
    """Return a client that rides out a restart of the server of up to about 10 s."""
    retry = Retry(ExponentialBackoff(cap=0.5, base=0.02), retries=30)
    return redis.Redis.from_url(
        redis_url,
        retry=retry,
        retry_on_error=[redis.ConnectionError, redis.TimeoutError],
        health_check_interval=0,
        # A cable that is cut says nothing: without these a call would hang for as long as TCP hopes.
        socket_connect_timeout=2.0,
        socket_timeout=5.0,
    )


class WorkerLedger:
    """What a replica reads from and writes to the ledger. Thread-safe: the client pools connections."""

    def __init__(self, client: redis.Redis, replica_id: str, stage: Stage) -> None:
        self._redis = client
        self._id = replica_id
        self._stage = stage
        self._register = client.register_script(script("register"))
        self._heartbeat = client.register_script(script("heartbeat"))
        self._write = client.register_script(script("write"))
        self._fence = client.register_script(script("fence"))
        self._drain = client.register_script(script("drain"))
        self._snapshot = client.register_script(script("snapshot"))

    def register(self, facts: bytes, slots: int, kv_bytes: int) -> None:
        """Enter the registry; from here on gateways may dispatch to this replica."""
        self._register(args=[self._id, LEASE_MS, facts, slots, kv_bytes])

    def heartbeat(self, load: bytes) -> bool:
        """Renew the lease. Returns False if the replica was fenced and must end."""
        return bool(self._heartbeat(args=[self._id, LEASE_MS, load]) == b"ok")

    def is_current(self, job: Job) -> bool:
        """Whether this attempt is still wanted from this replica."""
        holder = self._redis.hget(request_key(job.request_id), job.hop)
        return holder == f"{job.attempt}|{self._id}".encode()

    def write(self, events: Sequence[Event]) -> list[tuple[str, bool]]:
        """Append events to their reply streams.

        Returns the keys of the jobs that were overtaken, each with whether its request is forgotten: then
        nobody else will release what the job put into the blob store.
        """
        args: list[Any] = [self._id]
        for job, reply_to, payload, terminal in events:
            args += (job, reply_to, payload, "1" if terminal else "")
        stale = [job.decode() for job in self._write(args=args)]
        return [(job.removeprefix("!"), job.startswith("!")) for job in stale]

    def drain(self) -> None:
        """Take no new work."""
        self._drain(args=[self._id])

    def replicas(self, model: str) -> list[Neighbour]:
        """Return the replicas of a model, of all stages."""
        known = [(*map(msgspec.json.decode, fields[1:3]), fields[3]) for fields in self._snapshot()[0]]
        return [
            Neighbour(
                stage=Stage(facts["stage"]),
                peer_url=facts.get("peer_url", ""),
                draining=state != b"live",
                calls=frozenset((*load.get("encoders", ()), *load.get("prefills", ()))),
            )
            for facts, load, state in known
            if facts.get("model") == model
        ]

    def in_flight(self) -> int:
        """Return the jobs dispatched to this replica and not settled, started or not."""
        return int(self._redis.hlen(credits_key(self._id)))

    def leave(self, lost: bytes) -> int:
        """Remove every trace of this replica; return how many jobs it still held, reported as `lost`."""
        return int(self._fence(args=[self._id, lost, "", queue_name(self._stage, self._id)]))

    def heard(self) -> Iterator[str]:
        """Yield what gateways tell this replica (`cancel <job>`, `pause <job>`, `resume <job>`), for ever."""
        while True:
            item = self._redis.blpop([control_key(self._id)], timeout=1.0)
            if item:
                yield str(item[1], "utf-8") if isinstance(item[1], bytes) else item[1]
