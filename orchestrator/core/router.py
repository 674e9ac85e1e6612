"""route(): which replica takes a hop: filter, score, pick."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from operator import attrgetter

from orchestrator.core.types import Reason, ReplicaView, Route, RouteQuery
from stages.types import Stage

OVERLOAD = 1.25
"""Affinity is given up when its replica has this many times the mean pending work (ModServe)."""
PATIENCE = 1.5
"""A hop waits for a better replica until its first token is due in this many times its own work."""

Filter = Callable[[RouteQuery, Sequence[ReplicaView]], Sequence[ReplicaView]]
Score = Callable[[RouteQuery, Sequence[ReplicaView]], Sequence[float]]
"""Of each candidate, in [0, 1]; empty if the query gives it nothing to go by."""


def serving(query: RouteQuery, replicas: Sequence[ReplicaView]) -> Sequence[ReplicaView]:
    """Keep replicas that run this stage of this model and that the caller has not ruled out."""
    stage, model, excluded = query.stage, query.model, query.excluded
    return [r for r in replicas if r.stage is stage and r.model == model and r.replica_id not in excluded]


def taking_work(query: RouteQuery, replicas: Sequence[ReplicaView]) -> Sequence[ReplicaView]:
    """Keep replicas that are not draining."""
    return [r for r in replicas if not r.draining]


def in_domain(query: RouteQuery, replicas: Sequence[ReplicaView]) -> Sequence[ReplicaView]:
    """Keep replicas that share the required levels of the topology with the stage before.

    Levels that are unknown of the stage before are not required. A replica of which a required one is
    unknown is outside: nothing says how far away it is.
    """
    required = query.domain[: query.required_level]
    return [r for r in replicas if r.domain[: len(required)] == required] if required else replicas


def open_to_all(query: RouteQuery, replicas: Sequence[ReplicaView]) -> Sequence[ReplicaView]:
    """Keep replicas that are not set aside for work that is retried alone."""
    return [r for r in replicas if not r.quarantined]


def with_room(query: RouteQuery, replicas: Sequence[ReplicaView]) -> Sequence[ReplicaView]:
    """Keep replicas with a free slot and free KV; what could never fit, its engine refuses."""
    needed = query.kv_bytes
    return [r for r in replicas if r.in_flight < r.slots and _holds(r, needed)]


def _holds(replica: ReplicaView, needed_bytes: int) -> bool:
    """Return whether KV finds room: an empty cache takes what could never fit, an unknown one everything."""
    free, total = replica.free_kv_bytes, replica.total_kv_bytes
    return not total or free >= min(needed_bytes, total)


def elsewhere(query: RouteQuery, replicas: Sequence[ReplicaView]) -> Sequence[ReplicaView]:
    """Leave out what the caller would rather not have, if anything else is left."""
    if not query.avoided:
        return replicas
    return [r for r in replicas if r.replica_id not in query.avoided] or replicas


def sparing(query: RouteQuery, replicas: Sequence[ReplicaView]) -> Sequence[ReplicaView]:
    """Keep where a prompt is computed soonest, of the replicas on which it makes nobody's tokens late.

    A replica that prefills and decodes lets its decodes stand still for each prompt that it takes. Where
    somebody would miss the target everywhere, a hop waits, as long as its own first token has time for that.
    """
    own_s = query.prompt_s
    if not own_s:
        return replicas
    in_time = [r for r in replicas if r.prompts_s + own_s <= query.due_in_s]
    harmless = [r for r in in_time if r.spare_s >= own_s]
    if not harmless and query.due_in_s > PATIENCE * own_s:
        return []
    kept = harmless or in_time or replicas
    least_s = min([r.prompts_s for r in kept])
    return [r for r in kept if r.prompts_s == least_s]


FILTERS: Sequence[tuple[Filter, Reason]] = (
    (serving, Reason.NO_REPLICA),
    (taking_work, Reason.ALL_DRAINING),
    (in_domain, Reason.OUTSIDE_DOMAIN),
    (open_to_all, Reason.QUARANTINE),
    (with_room, Reason.NO_CREDIT),
    (elsewhere, Reason.NO_CREDIT),
    (sparing, Reason.SPARING_DECODES),
)
"""Applied in this order; the reason is given when no candidate is left."""

ALONE_FILTERS = FILTERS[:3]
"""Work that is retried alone may go to a quarantined replica, and waits until that one is idle."""


def leading_on(query: RouteQuery, replicas: Sequence[ReplicaView]) -> Sequence[ReplicaView]:
    """Leave out what shares no domain with a decode replica; leave all in if nobody could serve then.

    A KV cache in a domain without decode would wait there until its request's deadline.
    """
    level = query.onward_level
    if not level:
        return replicas
    ends = {
        r.domain[:level]
        for r in replicas
        if r.stage is Stage.DECODE and r.model == query.model and not r.draining
    }
    kept = [r for r in replicas if any(_shares(r.domain[:level], end) for end in ends)]
    return kept if taking_work(query, serving(query, kept)) else replicas


def _shares(required: tuple[str, ...], domain: tuple[str, ...]) -> bool:
    return domain[: len(required)] == required


def pending_tokens(query: RouteQuery, candidates: Sequence[ReplicaView]) -> Sequence[float]:
    """Favour the least pending work: 1.0 for the least, falling by 1.0 over the range of all.

    A range smaller than the query's own work is taken as that, so that, weighted alike with
    `prefix`, the two minimise the tokens that are pending or not cached.
    """
    pending = [r.pending_tokens for r in candidates]
    low = min(pending)
    span = max(max(pending) - low, query.tokens, 1)
    return [1.0 - (p - low) / span for p in pending]


def cache_affinity(query: RouteQuery, candidates: Sequence[ReplicaView]) -> Sequence[float]:
    """Favour one replica for each affinity key, if there is one and it is not overloaded: 1.0, others 0.0.

    Rendezvous hashing (Thaler and Ravishankar, 1998) over replica names: when a replica comes or
    goes, only its own keys move. One item of the query's size in progress is not an overload.
    """
    if not query.affinity_key:
        return ()
    key = query.affinity_key.encode()
    ranks = [blake2b(key + _name(r.replica_id), digest_size=8).digest() for r in candidates]
    home = ranks.index(max(ranks))
    mean = sum([r.pending_tokens for r in candidates]) / len(candidates)
    calm = candidates[home].pending_tokens <= max(OVERLOAD * mean, query.tokens)
    return [1.0 if calm and at == home else 0.0 for at in range(len(candidates))]


@lru_cache(maxsize=4096)
def _name(replica_id: str) -> bytes:
    # Without the boot epoch, so that a restarted replica gets its keys back.
    return b"|" + (replica_id.rpartition(".")[0] or replica_id).encode()


def prefix(query: RouteQuery, candidates: Sequence[ReplicaView]) -> Sequence[float]:
    """Favour the longest cached prefix, as a fraction of the query's tokens."""
    if not query.prefix_tokens:
        return ()
    tokens, cached = max(query.tokens, 1), query.prefix_tokens
    return [min(cached.get(r.replica_id, 0) / tokens, 1.0) for r in candidates]


def free_kv(query: RouteQuery, candidates: Sequence[ReplicaView]) -> Sequence[float]:
    """Favour the most free KV bytes, as a fraction of the most that any candidate has."""
    most = max(max(r.free_kv_bytes for r in candidates), 1)
    return [max(r.free_kv_bytes, 0) / most for r in candidates]


@dataclass(frozen=True, slots=True)
class Scorer:
    """A way to rank candidates, each in [0, 1], and the reason that it gives when it decides."""

    score: Score
    reason: Reason


SCORERS: Mapping[str, Scorer] = {
    "pending_tokens": Scorer(pending_tokens, Reason.LEAST_PENDING),
    "cache_affinity": Scorer(cache_affinity, Reason.CACHE_AFFINITY),
    "prefix": Scorer(prefix, Reason.PREFIX_HIT),
    "free_kv": Scorer(free_kv, Reason.MOST_FREE_KV),
}


def route(query: RouteQuery, replicas: Sequence[ReplicaView], weights: Mapping[str, float]) -> Route:
    """Pick the replica for a hop. The order of `replicas` does not matter: ties go to the lowest id.

    Args:
        query: The hop.
        replicas: Everything in the registry; those of the query's stage are enough without `onward_level`.
        weights: Weight ≥ 0 of each scorer in `SCORERS`, from the policy file.
    """
    candidates = leading_on(query, replicas)
    for keep, reason in ALONE_FILTERS if query.alone else FILTERS:
        candidates = keep(query, candidates)
        if not candidates:
            return Route(replica_id=None, reason=reason, scores={})
    if query.alone:
        return _set_aside(candidates)
    if len(candidates) == 1:
        only = candidates[0].replica_id
        return Route(replica_id=only, reason=Reason.ONLY_CANDIDATE, scores={only: 1.0})
    return _best(query, sorted(candidates, key=_by_id), weights)


_by_id = attrgetter("replica_id")


def _set_aside(candidates: Sequence[ReplicaView]) -> Route:
    # A replica that is already set aside first, even if busy: suspects never take a second one.
    chosen = min(candidates, key=lambda r: (not r.quarantined, r.in_flight, r.pending_tokens, r.replica_id))
    name = chosen.replica_id
    if chosen.in_flight:
        return Route(replica_id=None, reason=Reason.NO_CREDIT, scores={}, wanted=name)
    return Route(replica_id=name, reason=Reason.QUARANTINE, scores={name: 1.0}, wanted=name)


def _best(query: RouteQuery, candidates: Sequence[ReplicaView], weights: Mapping[str, float]) -> Route:
    totals = [0.0] * len(candidates)
    parts: list[tuple[Reason, list[float]]] = []
    for name in sorted(weights):
        weight, scorer = weights[name], SCORERS[name]
        scores = scorer.score(query, candidates)
        if not scores:
            continue
        part = [weight * score for score in scores]
        parts.append((scorer.reason, part))
        totals = [total + points for total, points in zip(totals, part, strict=True)]
    pick = totals.index(max(totals))
    return Route(
        replica_id=candidates[pick].replica_id,
        reason=_decisive(parts, pick),
        scores={r.replica_id: total for r, total in zip(candidates, totals, strict=True)},
    )


def _decisive(parts: Sequence[tuple[Reason, Sequence[float]]], pick: int) -> Reason:
    """Return the reason of the scorer that lifted the pick furthest above its worst candidate."""
    lead, reason = 0.0, Reason.BEST_SCORE
    for its_reason, part in parts:
        margin = part[pick] - min(part)
        if margin > lead:
            lead, reason = margin, its_reason
    return reason
