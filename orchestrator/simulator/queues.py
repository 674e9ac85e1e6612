"""The hops of one service that wait, and the order in which they are started."""

from collections import Counter
from collections.abc import Callable, Sequence

from orchestrator.core.admission import encode_held, stage_load
from orchestrator.core.types import Reason, StageLoad
from orchestrator.simulator.clock import Clock
from orchestrator.simulator.hop import Hop, Request
from orchestrator.simulator.pool import Pool
from orchestrator.simulator.replica import SimReplica
from orchestrator.simulator.terms import Terms
from stages.types import Stage

Reasons = Counter[tuple[Stage | None, Reason]]
"""Of admission (stage None) and of routing, with counts."""


class Queues:
    """What waits for the pools of one service.

    Args:
        clock: The virtual clock.
        pools: In the order that a request visits them.
        terms: What the service is told.
        reasons: Of routing, with counts.
        domain_of: The domain that a hop would rather stay in.
        start: Starts a hop on the replica that was found for it.
        give_up: Ends a request that is past its deadline.

    Attributes:
        pool_of: By stage.
    """

    def __init__(
        self,
        clock: Clock,
        pools: Sequence[Pool],
        terms: Terms,
        reasons: Reasons,
        *,
        domain_of: Callable[[Hop], tuple[str, ...]],
        start: Callable[[Hop, SimReplica], None],
        give_up: Callable[[Request], None],
    ) -> None:
        self._clock = clock
        self._pools = pools
        self._bounds = terms.promises.bounds
        self._rates = terms.speeds.rates
        self._reasons = reasons
        self._domain_of = domain_of
        self._start = start
        self._give_up = give_up
        self._roused = False
        self.pool_of = {stage: pool for pool in pools for stage in pool.stages}

    def load(self, stage: Stage) -> StageLoad:
        """Return a stage's load, as the gateway sees it."""
        pool = self.pool_of[stage]
        decoding = sum([r.decoding_tokens for r in pool.replicas]) if len(pool.stages) > 1 else 0
        waiting = pool.waiting_tokens - decoding
        return stage_load(stage, pool.replicas, waiting, self._rates[pool.stage])

    def push(self, stage: Stage, hops: Sequence[Hop]) -> None:
        """Let hops of one request, each of as much work, wait for the pool of a stage in order of urgency."""
        pool = self.pool_of[stage]
        pool.push(hops, hops[0].tokens / self._rates[pool.stage], self._clock.now_s)

    def dispatch(self, pool: Pool) -> None:
        """Start what can be started of a pool."""
        if not pool.depth or (pool.only_encodes and self._held()):
            return
        while pool.depth:
            while hop := pool.pop_expired(self._clock.now_s):
                self._expire(hop)
            placed = pool.pop_placeable(self._domain_of)
            if placed is None:
                return
            hop, replica, reason = placed
            self._reasons[pool.stage, reason] += 1
            self._start(hop, replica)

    def dispatch_all(self) -> None:
        """Start what can be started of every stage, the last first: it makes room for those before."""
        for pool in reversed(self._pools):
            self.dispatch(pool)

    def give_up_expired(self) -> None:
        """End the requests that wait and are past their deadlines, and give their room to others."""
        now_s = self._clock.now_s
        expired = [
            hop
            for pool in self._pools
            if pool.depth
            for hop in pool.withdraw(lambda hop: hop.request.ended or now_s >= hop.request.deadline_s)
        ]
        for hop in expired:
            self._expire(hop)

    def _held(self) -> bool:
        return encode_held(self.load(Stage.PREFILL), self._bounds)

    def _expire(self, hop: Hop) -> None:
        """End its request; what that gives up has made room somewhere, so every stage looks for work now."""
        self._give_up(hop.request)
        if not self._roused:
            self._roused = True
            self._clock.after(0.0, self._on_roused, None)

    def _on_roused(self, _: None) -> None:
        self._roused = False
        self.dispatch_all()
