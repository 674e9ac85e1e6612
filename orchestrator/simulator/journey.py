"""The way of a request through the pools of one simulated service: encode → prefill → decode.

What Redis, Celery and the engines do in between takes the time that the profile and the links say.
"""

from collections.abc import Callable, Sequence
from functools import partial

from orchestrator.simulator.clock import Clock
from orchestrator.simulator.endings import Endings
from orchestrator.simulator.engine import Milestones
from orchestrator.simulator.handover import Handover
from orchestrator.simulator.hop import Embedding, Hop, Request
from orchestrator.simulator.hop_maker import HopMaker
from orchestrator.simulator.pool import Pool
from orchestrator.simulator.prefixes import Prefixes
from orchestrator.simulator.queues import Queues, Reasons
from orchestrator.simulator.replica import SimReplica
from orchestrator.simulator.terms import Terms
from orchestrator.totals import ServiceTotals
from stages.types import Stage


class Journey:
    """Brings requests from stage to stage.

    Args:
        clock: The virtual clock.
        pools: In the order that a request visits them.
        terms: What the service is told.
        totals: Counts for control.
        endings: How requests end.
        reasons: Of routing, with counts.
        prefixes: What replicas hold of prompts; None if the requests say nothing of what they share.

    Attributes:
        queues: What waits for the pools.
        handover: KV caches that decode has still to pull.
        on_idle: Hears of replicas that drain and have become empty.
    """

    def __init__(
        self,
        clock: Clock,
        pools: tuple[Pool, ...],
        terms: Terms,
        totals: ServiceTotals,
        endings: Endings,
        reasons: Reasons,
        prefixes: Prefixes | None,
    ) -> None:
        self._clock = clock
        self._profile = terms.profile
        self._transfer = terms.transfer
        self._totals = totals
        self._endings = endings
        self._prefixes = prefixes
        self.pools = pools
        self.handover = Handover()
        self.queues = Queues(
            clock,
            pools,
            terms,
            reasons,
            domain_of=self.handover.source_domain,
            start=self._start,
            give_up=self._give_up,
        )
        self._pool_of = self.queues.pool_of
        prefill_stages = self._pool_of[Stage.PREFILL].stages
        self._decodes_at_once = Stage.DECODE in prefill_stages
        self._hops = HopMaker(terms, prefill_stages, endings.lengths, prefixes)
        self.on_idle: Callable[[SimReplica], None] = lambda replica: None

    def begin(self, request: Request, *, held: bool) -> None:
        """Send a request to its first stage; if it is held, its images wait for their turn."""
        first = self.pools[0]
        if first.only_encodes and request.images_left:
            self.push_images(request, [request.content.image(n) for n in range(request.images_left)])
            if not held:
                self.queues.dispatch(first)
        else:
            self.push_prompt(request)
            self.queues.dispatch(self._pool_of[Stage.PREFILL])

    def push_images(self, request: Request, contents: Sequence[str]) -> None:
        """Let images, one at least, wait to be encoded."""
        self.queues.push(Stage.ENCODE, [self._hops.image(request, content) for content in contents])

    def push_prompt(self, request: Request) -> None:
        """Let a prompt, with what was said already, wait for prefill."""
        self.queues.push(Stage.PREFILL, [self._hops.prompt(request)])

    def push_decode(self, request: Request) -> None:
        """Let a KV cache wait for decode."""
        self.queues.push(Stage.DECODE, [self._hops.decode(request)])

    def _start(self, hop: Hop, replica: SimReplica) -> None:
        """Reserve room on a replica for a hop, and bring what it needs there."""
        if hop.request.ended:
            raise RuntimeError(f"request {hop.request.index} was started after its end")
        replica.take(hop)
        self._totals.started(replica.stage, self._clock.now_s - hop.queued_s)
        moved_s = self._arrival_s(hop, replica)
        if moved_s > 0.0:
            self._clock.after(moved_s, self._begin, (hop, replica, hop.attempt))
        else:
            self._begin((hop, replica, hop.attempt))

    def _arrival_s(self, hop: Hop, replica: SimReplica) -> float:
        """Return how long it takes until what the hop needs is on its replica."""
        request = hop.request
        if replica.stage is Stage.PREFILL and request.embeddings_at:
            size = self._profile.embedding_bytes
            return sum(
                [self._transfer(size, source.domain, replica.domain) for source in request.embeddings_at]
            )
        if replica.stage is Stage.DECODE and (source := self.handover.source(request)) is not None:
            return self._transfer(self._hops.moved_bytes(request), source.domain, replica.domain)
        return 0.0

    def _begin(self, started: tuple[Hop, SimReplica, int]) -> None:
        """All that a hop needs is there: its engine gets it, unless its replica was lost meanwhile."""
        hop, replica, attempt = started
        if attempt != hop.attempt:
            return
        hop.begun = True
        if replica.stage is Stage.DECODE:
            self._pulled(hop.request)
        if self._prefixes and hop.prompt_tokens:
            self._prefixes.use(hop, replica)
        replica.engine.submit(hop)

    def milestones(self, replica: SimReplica) -> Milestones:
        """Return whom a replica's engine tells of a hop's progress."""
        return Milestones(
            prefilled=partial(self._prefilled, replica),
            first=lambda hop: self._endings.first_token(hop.request),
            done=partial(self._done, replica),
        )

    def _done(self, replica: SimReplica, hop: Hop) -> None:
        """A replica is through with a hop: its request goes to the next stage, its room to the next hop."""
        pool = self._pool_of[replica.stage]
        replica.give_back(hop)
        if pool is self.pools[-1]:
            replica.free_kv(hop)
            self._endings.answered(hop.request)
        elif pool.only_encodes:
            self._encoded(hop, replica)
        else:
            self.handover.hold(hop.request, replica, hop)
            self.push_decode(hop.request)
            self.queues.dispatch(self._pool_of[Stage.DECODE])
        self.tell_if_idle(replica)
        self.queues.dispatch(pool)
        if pool.stage is Stage.PREFILL and self.pools[0] is not pool:
            self.queues.dispatch(self.pools[0])  # its backpressure may have ended

    def _encoded(self, hop: Hop, replica: SimReplica) -> None:
        request = hop.request
        request.images_left -= 1
        made = Embedding(replica.domain, replica.node_id, self._clock.now_s, hop.content)
        request.embeddings_at.append(made)
        if hop.cached_images:
            self._totals.image_hit(self._profile.image_tokens)
        else:
            self._totals.done(Stage.ENCODE, self._profile.image_tokens)
        if not request.images_left and not request.ended:
            self.push_prompt(request)
            self.queues.dispatch(self._pool_of[Stage.PREFILL])

    def _prefilled(self, replica: SimReplica, hop: Hop) -> None:
        """A prompt is computed; a replica that decodes too sends the first token at once."""
        tokens = hop.request.tag.prefill_tokens + hop.request.said
        self._totals.prefilled(tokens, hop.cached_tokens)
        self._totals.done(Stage.PREFILL, tokens - hop.cached_tokens)
        if hop.cached_images:
            self._totals.image_hit(hop.cached_images * self._profile.image_tokens)
        if self._prefixes:
            self._prefixes.keep(hop, replica)
        if self._decodes_at_once:
            self._endings.first_token(hop.request)
            replica.prefilled(hop, self._hops.decode_tokens(hop.steps))

    def _pulled(self, request: Request) -> None:
        """The KV cache has arrived at decode: prefill may forget it."""
        source = self.handover.free(request)
        if source is not None:
            self.tell_if_idle(source)
            self.queues.dispatch(self._pool_of[Stage.PREFILL])

    def _give_up(self, request: Request) -> None:
        self._endings.expired(request)
        source = self.handover.free(request)
        if source is not None:
            self.tell_if_idle(source)

    def forget(self, pool: Pool) -> None:
        """A replica of the pool is gone, and what it kept with it."""
        if self._prefixes:
            self._prefixes.keep_only([r.replica_id for r in pool.replicas])

    def tell_if_idle(self, replica: SimReplica) -> None:
        """Say so if a replica drains and has become empty."""
        if replica.draining and replica.empty:
            self.on_idle(replica)
