"""The replicas that share a queue, and the hops that wait for one of them."""

import heapq
from collections.abc import Callable, Mapping, Sequence

from orchestrator.core.observed import ReplicaState
from orchestrator.core.router import route
from orchestrator.core.types import Reason, ReplicaView, Route, RouteQuery
from orchestrator.core.waiting import Waiting, WaitingParams, dispatch_key
from orchestrator.simulator.hop import Hop
from orchestrator.simulator.replica import SimReplica
from stages.types import Stage

Pick = Callable[[RouteQuery, Sequence[ReplicaView], Mapping[str, float]], Route]
"""How a pool picks a replica: `core.router.route`, or the way of a system that is compared with ours."""


class Pool:
    """Replicas that do the same stages of one service.

    Attributes:
        stages: What its replicas do, in order; most pools have one.
        only_encodes: Whether that is encode alone.
        replicas: Every one that exists.
        waiting_tokens: Work of the hops that wait, in the unit of the first stage.
        ended_busy_s: Busy seconds of replicas that are gone.
    """

    def __init__(
        self,
        stages: tuple[Stage, ...],
        model: str,
        weights: Mapping[str, float],
        params: WaitingParams,
        *,
        required_level: int = 0,
        pick: Pick = route,
    ) -> None:
        self.stages = stages
        self.stage = stages[0]
        self.only_encodes = stages == (Stage.ENCODE,)
        self._model = model
        self._weights = weights
        self._params = params
        self._required_level = required_level
        self._pick = pick
        self._heap: list[tuple[tuple[float, str], int, Hop]] = []
        self._pushed = 0
        self.replicas: list[SimReplica] = []
        self.waiting_tokens = 0
        self.ended_busy_s = 0.0

    @property
    def depth(self) -> int:
        """Hops that wait."""
        return len(self._heap)

    def busy_s(self) -> float:
        """Return the replica-seconds with work, up to now."""
        return self.ended_busy_s + sum([r.engine.busy_s() for r in self.replicas])

    def ready(self) -> list[SimReplica]:
        """Return the replicas that take work."""
        return [r for r in self.replicas if r.state is ReplicaState.READY]

    def push(self, hops: Sequence[Hop], work_s: float, now_s: float) -> None:
        """Let hops of one request wait in order of urgency; each is of `work_s` seconds' work."""
        request = hops[0].request
        key = dispatch_key(
            Waiting(
                hop_id="",
                arrival_s=request.arrival_s,
                due_s=request.due_s,
                deadline_s=request.deadline_s,
                work_s=work_s,
            ),
            self._params,
        )
        for hop in hops:
            hop.queued_s = now_s
            self.waiting_tokens += hop.tokens
            self._pushed += 1
            heapq.heappush(self._heap, (key, self._pushed, hop))

    def waiting(self) -> list[Hop]:
        """Return the hops that wait, the most urgent first."""
        return [entry[2] for entry in sorted(self._heap, key=lambda entry: entry[:2])]

    def withdraw(self, unwanted: Callable[[Hop], bool]) -> list[Hop]:
        """Take out the hops that are unwanted; return them, the most urgent first."""
        gone = [hop for hop in self.waiting() if unwanted(hop)]
        if gone:
            taken = set(gone)
            self._heap = [entry for entry in self._heap if entry[2] not in taken]
            heapq.heapify(self._heap)
            self.waiting_tokens -= sum(hop.tokens for hop in gone)
        return gone

    def pop_expired(self, now_s: float) -> Hop | None:
        """Take out the most urgent hop if its request is over or past its deadline."""
        if self._heap:
            hop = self._heap[0][2]
            if hop.request.ended or now_s >= hop.request.deadline_s:
                return self._pop()
        return None

    def pop_placeable(
        self, domain_of: Callable[[Hop], tuple[str, ...]]
    ) -> tuple[Hop, SimReplica, Reason] | None:
        """Take out the most urgent hop for which a replica has room, with that replica.

        A hop that has to stay in a domain may be passed over by one of another domain; in one domain,
        nobody goes before the most urgent, though a smaller one would fit.
        """
        if not [r for r in self.replicas if r.in_flight < r.slots and not r.draining]:
            return None
        passed: list[tuple[tuple[float, str], int, Hop]] = []
        full: set[tuple[str, ...]] = set()
        found = None
        while self._heap and not found:
            hop = self._heap[0][2]
            domain = domain_of(hop)[: self._required_level]
            if domain not in full:
                choice = self._route(hop, domain)
                if choice.replica_id is not None:
                    (replica,) = [r for r in self.replicas if r.replica_id == choice.replica_id]
                    found = self._pop(), replica, choice.reason
                    break
                full.add(domain)
                if not domain:
                    break
            passed.append(heapq.heappop(self._heap))
        for entry in passed:
            heapq.heappush(self._heap, entry)
        return found

    def _route(self, hop: Hop, domain: tuple[str, ...]) -> Route:
        query = RouteQuery(
            stage=self.stage,
            model=self._model,
            tokens=hop.tokens,
            kv_bytes=hop.kv_bytes,
            affinity_key=hop.content,
            prefix_tokens=hop.prefix_tokens,
            domain=domain,
            required_level=self._required_level,
        )
        return self._pick(query, self.replicas, self._weights)

    def _pop(self) -> Hop:
        hop = heapq.heappop(self._heap)[2]
        self.waiting_tokens -= hop.tokens
        return hop
