"""The queue in front of a stage: hops wait here, in order of urgency, for a credit on a replica."""

import asyncio
import contextlib
import heapq
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from orchestrator.core.router import route
from orchestrator.core.types import Reason, Replica, Route, RouteQuery
from orchestrator.core.waiting import Waiting, WaitingParams, dispatch_key, expired
from orchestrator.logs import job_fields
from orchestrator.ports import DispatchOrder, DispatchResult, Ledger, LedgerUnavailable, Observer
from orchestrator.registry import Registry
from stages.types import Job, Stage

log = logging.getLogger(__name__)

_POLL_S = 0.05
"""Other gateways give credits back without telling us."""
_DOMAIN_PATIENCE_S = 2.0
"""How long a hop waits for a replica of its domain to come while there are some outside."""

_FOR_ALL = (Reason.NO_CREDIT, Reason.SPARING_DECODES)
"""Why a hop waits that holds for those behind it too."""


class DeadlinePassed(Exception):
    """The request's deadline passed before it was answered."""


class NobodyInDomain(Exception):
    """Every replica that could take the hop is outside the domain that it has to stay in."""


@dataclass(slots=True)
class Hop:
    """One hop that wants a replica.

    Attributes:
        job: Already numbered as an attempt; its key names it everywhere.
        ttl_s: See `DispatchOrder`.
        is_over: Whether its request has ended.
    """

    waiting: Waiting
    query: RouteQuery
    job: Job
    ttl_s: float
    is_over: Callable[[], bool]
    queued_s: float = field(default_factory=time.monotonic)
    granted: "asyncio.Future[Grant]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


@dataclass(frozen=True, slots=True)
class Grant:
    """A credit: the attempt is in the ledger and its task on the replica's queue."""

    order: DispatchOrder
    replica: Replica
    reason: Reason


class StageQueue:
    """Waiting hops of one stage in one gateway.

    Args:
        stage: Whose hops wait here.
        gateway: Id of the gateway.
        ledger: Gives credits.
        registry: Knows the replicas.
        weights: Returns the router's weights, from the policy in force.
        params: Returns what the order of waiting needs of it.
        held: Whether nothing may start now, such as encode under backpressure.
        abandon: Takes a hop back for which a credit came after its caller had gone.
        observer: Hears of each route.

    Attributes:
        depth: Hops that wait for a credit.
        waiting_tokens: Their work.
    """

    def __init__(
        self,
        stage: Stage,
        gateway: str,
        ledger: Ledger,
        registry: Registry,
        *,
        weights: Callable[[], Mapping[str, float]],
        params: Callable[[], WaitingParams],
        held: Callable[[], bool],
        abandon: Callable[[Hop], None],
        observer: Observer,
    ) -> None:
        self._stage = stage
        self._gateway = gateway
        self._ledger = ledger
        self._registry = registry
        self._weights = weights
        self._params = params
        self._held = held
        self._abandon = abandon
        self._observer = observer
        self._heap: list[tuple[tuple[float, str], Hop]] = []
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.waiting_tokens = 0
        self.depth = 0

    async def acquire(self, hop: Hop) -> Grant:
        """Wait for a credit.

        Raises:
            DeadlinePassed: The hop expired first; it has cost nothing.
            NobodyInDomain: Waiting for its domain is given up.
        """
        self._push(hop)
        self.waiting_tokens += hop.query.tokens
        self.depth += 1
        self._wake.set()
        try:
            return await hop.granted
        finally:
            self.waiting_tokens -= hop.query.tokens
            self.depth -= 1

    def wake(self) -> None:
        """Look again: a credit came back, or the registry changed."""
        self._wake.set()

    async def run(self) -> None:
        """Dispatch for ever."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _POLL_S if self._heap else None)
            self._wake.clear()
            self._dispatch_what_fits()

    def _push(self, hop: Hop) -> None:
        heapq.heappush(self._heap, (dispatch_key(hop.waiting, self._params()), hop))

    def _dispatch_what_fits(self) -> None:
        now_s = time.monotonic()
        passed_over: list[Hop] = []
        full: set[tuple[str, ...]] = set()
        while self._heap:
            hop = heapq.heappop(self._heap)[1]
            if hop.granted.done():
                continue
            if expired(hop.waiting, now_s):
                hop.granted.set_exception(DeadlinePassed())
                continue
            domain = hop.query.domain[: hop.query.required_level]
            if domain in full:
                passed_over.append(hop)
                continue
            choice = None if self._held() else self._route(hop, now_s)
            target = choice and (choice.replica_id or choice.wanted)
            if choice and target:
                self._start(hop, target, choice)
            elif (
                choice
                and choice.reason is Reason.OUTSIDE_DOMAIN
                and now_s > hop.queued_s + _DOMAIN_PATIENCE_S
            ):
                hop.granted.set_exception(NobodyInDomain())
            else:
                passed_over.append(hop)
                # Nobody has room, so nobody behind this hop goes before it, unless to another domain. What
                # avoids a replica says nothing about the room of others.
                if not choice or (choice.reason in _FOR_ALL and not hop.query.excluded):
                    if not domain:
                        break
                    full.add(domain)
        for hop in passed_over:
            self._push(hop)

    def _route(self, hop: Hop, now_s: float) -> Route:
        query = hop.query
        stages = (self._stage, Stage.DECODE) if query.onward_level else (self._stage,)
        known = [replica for stage in stages for replica in self._registry.replicas(stage)]
        if query.prompt_tokens:
            unsplit = self._registry.unsplit
            prompt_s, due_in_s = unsplit.prompt_s(query.prompt_tokens), hop.waiting.due_s - now_s
            query = query._replace(prompt_s=prompt_s, due_in_s=due_in_s)
            known = [unsplit.seen(replica) for replica in known]
        return route(query, known, self._weights())

    def _start(self, hop: Hop, replica_id: str, choice: Route) -> None:
        order = DispatchOrder(
            replica_id=replica_id,
            job=hop.job,
            gateway=self._gateway,
            tokens=hop.query.tokens,
            kv_bytes=hop.query.kv_bytes,
            alone=hop.query.alone,
            ttl_s=hop.ttl_s,
        )
        replica = self._registry.get(replica_id)
        assert replica  # it was routed to in this very step
        self._registry.took(order)
        if hop.query.prompt_tokens:
            self._registry.unsplit.took(
                replica_id,
                hop.job.key,
                prompt_tokens=hop.query.prompt_tokens,
                expected_tokens=hop.query.tokens,
                tpot_s=self._params().tpot_s,
                now_s=time.monotonic(),
            )
        task = asyncio.create_task(self._reserve(hop, Grant(order, replica, choice.reason)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reserve(self, hop: Hop, grant: Grant) -> None:
        order = grant.order
        result = await self._ask(order)
        if result is DispatchResult.OK and not hop.granted.done():
            self._observer.routed(self._stage, grant.reason)
            hop.granted.set_result(grant)
            return
        self._registry.gave_back(order)
        if result is DispatchResult.OK:
            self._abandon(hop)
            return
        self._learn(order.replica_id, result)
        if not hop.granted.done():
            self._push(hop)
            asyncio.get_running_loop().call_later(_POLL_S, self._wake.set)

    async def _ask(self, order: DispatchOrder) -> DispatchResult:
        try:
            return await self._ledger.dispatch(order)
        except LedgerUnavailable as error:
            message = "dispatch to %s failed, trying again: %s"
            log.warning(message, order.replica_id, error, extra=job_fields(order.job))
            return DispatchResult.FULL

    def _learn(self, replica_id: str, result: DispatchResult) -> None:
        replica = self._registry.get(replica_id)
        if result is DispatchResult.GONE:
            self._registry.drop(replica_id)
        elif result is DispatchResult.DRAINING:
            self._registry.mark(replica_id, draining=True)
        elif replica:
            # Full until the next snapshot says otherwise.
            self._registry.mark(replica_id, in_flight=max(replica.in_flight, replica.slots))
