"""A gateway's life among the others: lease, registry, reply stream, queues, and fencing of the dead."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import msgspec

from orchestrator.core.admission import encode_held
from orchestrator.core.types import StageLoad
from orchestrator.dispatch import Hop, StageQueue
from orchestrator.hops import Hops, Request
from orchestrator.inbox import Inboxes
from orchestrator.ledger import EXIT_FENCED, FULL_USAGE, LEASE_S, RENEW_S
from orchestrator.policy import Policy
from orchestrator.ports import Ledger, LedgerUnavailable, Observer, Snapshot
from orchestrator.prefix_index import PrefixIndex
from orchestrator.published import of_model
from orchestrator.registry import Registry
from stages.prefix import BLOCK_TOKENS
from stages.types import Stage

log = logging.getLogger(__name__)

_REFRESH_S = 0.2
_GAP_S = 1.0
"""Longer than this between two looks at the registry, Redis or this process was away."""


class Fleet:
    """Everything that a gateway keeps up besides answering requests.

    Args:
        gateway: Id of this boot of the gateway.
        policy: Returns the policy in force.
        release: Drops the blobs of a request that nobody serves any more, given its id and the pull
            URLs that are known of it.
        report: Further facts for other gateways and `tercet status`, sent with the lease.
        observer: Hears what happens to hops.
    """

    def __init__(
        self,
        gateway: str,
        ledger: Ledger,
        policy: Callable[[], Policy],
        *,
        release: Callable[[str, Collection[str]], None],
        report: Callable[[], Mapping[str, Any]],
        observer: Observer,
    ) -> None:
        self.gateway = gateway
        self._ledger = ledger
        self._policy = policy
        self._release = release
        self._report = report
        self.registry = Registry(gateway)
        self.prefixes = PrefixIndex(BLOCK_TOKENS)
        self._inboxes = Inboxes()
        self._ended: list[str] = []
        self._unwanted: list[str] = []
        self._ended_any = asyncio.Event()
        self._steady_since_s = time.monotonic()
        self._seen_s = (time.monotonic(), time.time())
        self.queues = {stage: self._queue(stage, observer) for stage in Stage}
        self.hops = Hops(ledger, self.registry, self.queues, self._inboxes, observer)

    async def join(self) -> None:
        """Take the lease and the first look at the registry."""
        await self._ledger.greet(self.gateway, self._reported(), first=True)
        self._refresh(await self._ledger.snapshot())

    async def run(self) -> None:
        """Keep everything up, for ever."""
        async with asyncio.TaskGroup() as group:
            for loop in (self._keep_lease, self._watch, self._read_replies, self._close_ended):
                group.create_task(loop(), name=loop.__name__)
            group.create_task(self.hops.repeat_unheard())
            for queue in self.queues.values():
                group.create_task(queue.run())

    async def leave(self) -> None:
        """Give the lease up and cancel what is left."""
        for request_id in await self._ledger.fence_gateway(self.gateway, only_if_lapsed=False) or ():
            self._release(request_id, ())

    def ended(self, request: Request) -> None:
        """Forget a request, cancelling what still runs for it."""
        request.over = True
        self._close(request.request_id)
        self._release(request.request_id, request.pull_urls)

    def _close(self, request_id: str) -> None:
        self._ended.append(request_id)
        self._ended_any.set()

    def _abandon(self, hop: Hop) -> None:
        if hop.is_over():  # its end came before this credit did
            self._close(hop.job.request_id)
        else:
            self._unwanted.append(hop.job.key)
            self._ended_any.set()

    def load(self, stage: Stage) -> StageLoad:
        """Return a stage's load over all gateways."""
        return self.registry.load(stage, self.queues[stage].waiting_tokens)

    def loads(self) -> dict[Stage, StageLoad]:
        """Return every stage's load."""
        return {stage: self.load(stage) for stage in Stage}

    def ready(self) -> bool:
        """Whether every stage that requests pass has a replica that takes work, as far as is known."""
        used = self._policy().used_stages
        return self.silence_s() < LEASE_S and all(self.load(stage).live_replicas for stage in used)

    def ledger_full(self) -> bool:
        """Whether the ledger has no memory to spare for new requests."""
        return self.registry.snapshot.memory_usage > FULL_USAGE

    def silence_s(self) -> float:
        """Return how long ago the registry was read. After `LEASE_S` nobody in it is known to live."""
        return time.monotonic() - self._seen_s[0]

    def _queue(self, stage: Stage, observer: Observer) -> StageQueue:
        return StageQueue(
            stage,
            self.gateway,
            self._ledger,
            self.registry,
            weights=lambda: self._policy().routing.weights(stage),
            params=lambda: self._policy().waiting_params,
            held=self._encode_held if stage is Stage.ENCODE else lambda: False,
            abandon=self._abandon,
            observer=observer,
        )

    def _encode_held(self) -> bool:
        return encode_held(self.load(Stage.PREFILL), self._policy().admission_bounds)

    async def _keep_lease(self) -> None:
        while True:
            with _outage_logged("lease"):
                if not await self._ledger.greet(self.gateway, self._reported(), first=False):
                    log.critical("fenced: requests of this gateway are being cancelled elsewhere")
                    os._exit(EXIT_FENCED)
            await asyncio.sleep(RENEW_S)

    async def _watch(self) -> None:
        while True:
            with _outage_logged("registry"):
                snapshot = await self._ledger.snapshot()
                self._note_gap()
                self._refresh(snapshot)
                await self._fence_lapsed(snapshot)
            await asyncio.sleep(_REFRESH_S)

    def _note_gap(self) -> None:
        # Wall-clock time too: the monotonic clock stands still while a laptop sleeps.
        now = (time.monotonic(), time.time())
        if max(now[0] - self._seen_s[0], now[1] - self._seen_s[1]) > _GAP_S:
            self._steady_since_s = now[0]
        self._seen_s = now

    def _refresh(self, snapshot: Snapshot) -> None:
        mine = of_model(snapshot, self._policy().model.name)
        self.registry.refresh(mine)
        self.prefixes.keep_only([entry.replica.replica_id for entry in mine.replicas])
        for queue in self.queues.values():
            queue.wake()

    async def _fence_lapsed(self, snapshot: Snapshot) -> None:
        # After an outage of Redis every lease looks lapsed until its owner could renew it.
        if time.monotonic() - self._steady_since_s < LEASE_S:
            return
        for replica_id in snapshot.lapsed_replicas:
            lost = await self._ledger.fence(replica_id, "lost", only_if_lapsed=True)
            if lost is not None:
                log.warning("fenced replica, its lease lapsed", extra={"replica": replica_id, "lost": lost})
        for gateway in snapshot.lapsed_gateways:
            if gateway == self.gateway:
                continue  # this one is slow, not dead
            requests = await self._ledger.fence_gateway(gateway, only_if_lapsed=True) or ()
            log.warning("fenced gateway, its lease lapsed", extra={"gateway": gateway, "lost": len(requests)})
            for request_id in requests:
                self._release(request_id, ())  # what other hosts hold of it is swept there

    async def _read_replies(self) -> None:
        async for deliveries in self._ledger.replies(self.gateway):
            self._inboxes.deliver(deliveries)

    async def _close_ended(self) -> None:
        while True:
            await self._ended_any.wait()
            self._ended_any.clear()
            ended, self._ended = self._ended, []
            unwanted, self._unwanted = self._unwanted, []
            try:
                if unwanted:
                    await self._ledger.withdraw(unwanted)
                await self._ledger.close(self.gateway, ended)
            except LedgerUnavailable as error:
                log.warning("closing requests failed, trying again: %s", error)
                self._ended += ended
                self._unwanted += unwanted
                self._ended_any.set()
                await asyncio.sleep(_REFRESH_S)

    def _reported(self) -> bytes:
        waiting = {stage: queue.waiting_tokens for stage, queue in self.queues.items()}
        depths = {stage: queue.depth for stage, queue in self.queues.items()}
        return msgspec.json.encode({"waiting_tokens": waiting, "waiting": depths, **self._report()})


@contextlib.contextmanager
def _outage_logged(what: str) -> Iterator[None]:
    """Log a failed round and let the loop go on: Redis may be back at the next one."""
    try:
        yield
    except Exception as error:
        log.warning("%s round failed: %s", what, error)
