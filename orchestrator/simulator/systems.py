"""Ways to split the three stages over replicas, and to route among them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.core.router import route
from orchestrator.core.types import Reason, ReplicaView, Route, RouteQuery
from orchestrator.simulator.pool import Pick
from stages.types import Stage

E, P, D = Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """How a service is laid out.

    Attributes:
        pools: The stages of each pool, in the order a request visits them.
        pick: Makes a fresh router for a pool.
        images_in_parallel: A replica that does more than encode spreads images over its accelerators,
            each with a whole encoder, instead of splitting every image over all of them.
    """

    pools: tuple[tuple[Stage, ...], ...]
    pick: Callable[[], Pick] = lambda: route
    images_in_parallel: bool = False


def round_robin() -> Pick:
    """Return a router that gives each replica its turn, full or not: what a plain Service does."""
    turn = 0

    def pick(query: RouteQuery, replicas: Sequence[ReplicaView], weights: Mapping[str, float]) -> Route:
        nonlocal turn
        ready = sorted(r.replica_id for r in replicas if not r.draining)
        if not ready:
            return Route(replica_id=None, reason=Reason.NO_REPLICA, scores={})
        turn += 1
        chosen = ready[turn % len(ready)]
        return Route(replica_id=chosen, reason=Reason.BEST_SCORE, scores={chosen: 1.0})

    return pick


def least_work() -> Pick:
    """Return a router to the replica with the least pending work, full or not."""

    def pick(query: RouteQuery, replicas: Sequence[ReplicaView], weights: Mapping[str, float]) -> Route:
        ready = [r for r in replicas if not r.draining]
        if not ready:
            return Route(replica_id=None, reason=Reason.NO_REPLICA, scores={})
        chosen = min(ready, key=lambda r: (r.pending_tokens, r.replica_id)).replica_id
        return Route(replica_id=chosen, reason=Reason.LEAST_PENDING, scores={chosen: 1.0})

    return pick


SYSTEMS: Mapping[str, System] = {
    "e-p-d": System(pools=((E,), (P,), (D,))),
    "ep-d": System(pools=((E, P), (D,)), images_in_parallel=True),
    "e-pd": System(pools=((E,), (P, D))),
    "e-pd-round-robin": System(pools=((E,), (P, D)), pick=round_robin),
    "monolith-round-robin": System(pools=((E, P, D),), pick=round_robin),
    "monolith-least-work": System(pools=((E, P, D),), pick=least_work),
    "monolith-least-work-vit-dp": System(pools=((E, P, D),), pick=least_work, images_in_parallel=True),
}
