"""The life of a request in one simulated service: tag → admit → route → encode → prefill → decode.

Tagging, admission, ordering and routing are the gateway's own functions; what Redis, Celery and the
engines do in between takes the time that the profile and the links say.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orchestrator.core.admission import AdmissionBounds, admit, encode_held, stage_load
from orchestrator.core.profile import ModelProfile
from orchestrator.core.tagger import tag
from orchestrator.core.types import MediaShape, Queued, Reason, Rejected, StageLoad, StageTag
from orchestrator.core.waiting import WaitingParams, due_s
from orchestrator.simulator.clock import Clock
from orchestrator.simulator.engines import Milestones
from orchestrator.simulator.hop import Hop, Request
from orchestrator.simulator.outcomes import Ending, Outcomes
from orchestrator.simulator.pool import Pool
from orchestrator.simulator.replica import SimReplica
from orchestrator.totals import ServiceTotals, StageNow
from stages.types import Modality, Stage

SERVED = frozenset({Modality.TEXT, Modality.IMAGE, Modality.VIDEO})

Transfer = Callable[[int, tuple[str, ...], tuple[str, ...]], float]
"""Seconds to move so many bytes from one domain to another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promises:
    """What the service promises and when it refuses.

    Attributes:
        tpot_s: Target of the mean time per output token.
        deadline_s: A request is given up this long after its arrival.
    """

    bounds: AdmissionBounds
    waiting: WaitingParams
    tpot_s: float
    deadline_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """What one replica is taken to do per second, for ordering and admission, and alone with a request.

    Attributes:
        rates: Units per second of one replica, by stage.
        image_s: Seconds to encode one image, preparing it apart.
        images_at_once: Images that a request alone has encoded side by side.
    """

    rates: Mapping[Stage, float]
    image_s: float
    images_at_once: int

    def isolated_s(self, tagged: StageTag, profile: ModelProfile) -> float:
        """Return the time to first token of a request that is alone."""
        images = len(tagged.item_tokens)
        encode_s = profile.preprocess_s + -(-images // self.images_at_once) * self.image_s if images else 0.0
        return encode_s + tagged.prefill_tokens / self.rates[Stage.PREFILL]


class Service:
    """One service's requests, pools and counters.

    Args:
        clock: The virtual clock.
        profile: The model's.
        pools: In the order that a request visits them.
        promises: From the policy file.
        speeds: From the profile at the service's mix.
        transfer: How long moving bytes takes.
        totals: Counts for control.
        outcomes: Records what becomes of each request.
    """

    def __init__(
        self,
        clock: Clock,
        profile: ModelProfile,
        pools: tuple[Pool, ...],
        promises: Promises,
        speeds: Speeds,
        transfer: Transfer,
        totals: ServiceTotals,
        outcomes: Outcomes,
    ) -> None:
        self._clock = clock
        self._profile = profile
        self._promises = promises
        self._speeds = speeds
        self._transfer = transfer
        self._next = dict(zip(pools, (*pools[1:], None), strict=True))
        self._image = MediaShape(modality=Modality.IMAGE, tokens=profile.image_tokens)
        self.pools = pools
        self.pool_of = {stage: pool for pool in pools for stage in pool.stages}
        self.totals = totals
        self.outcomes = outcomes
        self.reasons: Counter[tuple[Stage | None, Reason]] = Counter()
        self.on_idle: Callable[[SimReplica], None] = lambda replica: None
        self.milestones = Milestones(
            prefilled=self._prefilled, first=lambda hop: self._first_token(hop.request), done=self._done
        )

    def arrive(
        self,
        index: int,
        images: int,
        text_tokens: int,
        output_tokens: int,
        content: str = "",
        sent_s: float | None = None,
    ) -> None:
        """A request comes in.

        Args:
            index: Its row.
            images: How many, all of the profile's size.
            text_tokens: The rest of its prompt.
            output_tokens: Of its completion; ≥ 1.
            content: Names its images, for cache affinity; empty if none comes twice.
            sent_s: When its client sent it; now by default.
        """
        now_s = self._clock.now_s
        tagged = tag(
            text_tokens, (self._image,) * images, kappa=self._profile.kappa, max_tokens=output_tokens
        )
        self.totals.offered(tagged, now_s)
        loads = {stage: self.load(stage) for stage in tagged.stages}
        slack_s = self._promises.deadline_s
        admission = admit(tagged, loads, self._promises.bounds, SERVED, slack_s)
        self.reasons[None, admission.reason] += 1
        if isinstance(admission, Rejected):
            self._end(index, Ending.REFUSED)
            return
        isolated_s = self._speeds.isolated_s(tagged, self._profile)
        request = Request(
            index,
            tagged,
            output_tokens,
            now_s if sent_s is None else sent_s,
            due_s(now_s, isolated_s, self._promises.waiting),
            now_s + slack_s,
        )
        self._send_in(request, content, held=isinstance(admission, Queued))

    def load(self, stage: Stage) -> StageLoad:
        """Return a stage's load, as the gateway sees it."""
        pool = self.pool_of[stage]
        return stage_load(stage, pool.replicas, pool.waiting_tokens, self._speeds.rates[pool.stage])

    def now(self) -> dict[Stage, StageNow]:
        """Return what control looks at beside the totals."""
        return {stage: _now(self.pool_of[stage]) for stage in Stage}

    def dispatch(self, pool: Pool) -> None:
        """Start what can be started."""
        if not pool.depth or (pool.stages == (Stage.ENCODE,) and self._held()):
            return
        while pool.depth:
            while hop := pool.pop_expired(self._clock.now_s):
                self._expire(hop.request)
            placed = pool.pop_placeable(_source_domain)
            if placed is None:
                return
            hop, replica, reason = placed
            self.reasons[pool.stage, reason] += 1
            self._start(hop, replica)

    def lost(self, replica: SimReplica) -> None:
        """A replica died: what it had is done again, a decode from its prompt and what it had said."""
        replica.engine.stop()
        for hop in sorted(replica.running, key=lambda hop: (hop.request.index, hop.queued_s)):
            hop.attempt += 1
            request = hop.request
            if hop.images and not hop.prompt_tokens and not hop.steps:
                self._push(self.pools[0], self._image_hop(request, hop.content))
            else:
                self._push(self.pool_of[Stage.PREFILL], self._prompt_hop(request))
        replica.running.clear()

    def _held(self) -> bool:
        return encode_held(self.load(Stage.PREFILL), self._promises.bounds)

    def _send_in(self, request: Request, content: str, held: bool) -> None:
        first = self.pools[0]
        if first.stages == (Stage.ENCODE,) and request.images_left:
            for number in range(request.images_left):
                self._push(first, self._image_hop(request, content and f"{content}/{number}"))
            if not held:
                self.dispatch(first)
        else:
            pool = self.pool_of[Stage.PREFILL]
            self._push(pool, self._prompt_hop(request))
            self.dispatch(pool)

    def _push(self, pool: Pool, hop: Hop) -> None:
        pool.push(hop, hop.tokens / self._speeds.rates[pool.stage], self._clock.now_s)

    def _image_hop(self, request: Request, content: str) -> Hop:
        return Hop(request, tokens=self._profile.image_tokens, images=1, content=content)

    def _prompt_hop(self, request: Request) -> Hop:
        """Return the hop of the pool that prefills, with all that its replicas do."""
        tagged, stages = request.tag, self.pool_of[Stage.PREFILL].stages
        decodes = Stage.DECODE in stages
        images = len(tagged.item_tokens) if Stage.ENCODE in stages else 0
        steps = request.output_tokens - 1 if decodes else 0
        context = self._context(tagged)
        rates = self._speeds.rates
        seconds = images * self._speeds.image_s + steps / rates[Stage.DECODE] if len(stages) > 1 else 0.0
        return Hop(
            request,
            tokens=tagged.prefill_tokens + int(seconds * rates[Stage.PREFILL]),
            images=images,
            prompt_tokens=tagged.prefill_tokens,
            steps=steps,
            context_tokens=context,
            kv_bytes=(context + (request.output_tokens if decodes else 0)) * self._profile.kv_bytes_per_token,
        )

    def _context(self, tagged: StageTag) -> int:
        # With cross-attention, images are not in the cache that grows and is read with every token.
        return tagged.prefill_tokens

    def _start(self, hop: Hop, replica: SimReplica) -> None:
        replica.take(hop)
        request, stage = hop.request, replica.stage
        self.totals.started(stage, self._clock.now_s - hop.queued_s)
        moved_s = self._arrival_s(hop, replica)
        if moved_s > 0.0:
            self._clock.after(moved_s, self._begin, (hop, hop.attempt))
        else:
            self._begin((hop, hop.attempt))
        if request.ended:
            raise RuntimeError(f"request {request.index} was started after its end")

    def _arrival_s(self, hop: Hop, replica: SimReplica) -> float:
        """Return how long it takes until what the hop needs is on its replica."""
        request = hop.request
        if replica.stage is Stage.PREFILL and request.embeddings_at:
            size = self._profile.embedding_bytes
            return sum([self._transfer(size, source, replica.domain) for source in request.embeddings_at])
        if replica.stage is Stage.DECODE and request.prefilled_on is not None:
            size = hop.context_tokens * self._profile.kv_bytes_per_token
            return self._transfer(size, request.prefilled_on.domain, replica.domain)
        return 0.0

    def _begin(self, started: tuple[Hop, int]) -> None:
        hop, attempt = started
        replica = hop.replica
        if attempt != hop.attempt or replica is None:
            return
        if replica.stage is Stage.DECODE:
            self._pulled(hop)
        replica.engine.submit(hop)

    def _pulled(self, hop: Hop) -> None:
        """The KV cache has arrived at decode: prefill may forget it."""
        source, request = hop.request.prefilled_on, hop.request
        if source is not None and request.prefill_hop is not None:
            self._forget_kv(request, source, request.prefill_hop)
            self.dispatch(self.pool_of[Stage.PREFILL])

    def _forget_kv(self, request: Request, source: SimReplica, hop: Hop) -> None:
        source.free_kv(hop)
        request.prefilled_on = request.prefill_hop = None
        if source.draining and source.empty:
            self.on_idle(source)

    def _first_token(self, request: Request) -> None:
        if not request.first_token_s:
            request.first_token_s = self._clock.now_s
            target_s = request.due_s - request.arrival_s
            self.totals.first_token((self._clock.now_s - request.arrival_s) / target_s, self._clock.now_s)

    def _prefilled(self, hop: Hop) -> None:
        self.totals.prefilled(hop.request.tag.prefill_tokens, 0)
        self.totals.done(Stage.PREFILL, hop.request.tag.prefill_tokens)
        if Stage.DECODE in self.pool_of[Stage.PREFILL].stages:
            self._first_token(hop.request)

    def _done(self, hop: Hop) -> None:
        replica, request = hop.replica, hop.request
        if replica is None:
            raise RuntimeError("a hop that is nowhere is done")
        pool = self.pool_of[replica.stage]
        replica.give_back(hop)
        if self._next[pool] is None:
            replica.free_kv(hop)
            self._answer(request)
        elif pool.stages == (Stage.ENCODE,):
            self._encoded(request, replica)
        else:
            request.prefilled_on, request.prefill_hop = replica, hop
            self._to_decode(request)
        if replica.draining and replica.empty:
            self.on_idle(replica)
        self.dispatch(pool)
        if pool.stage is Stage.PREFILL and self.pools[0] is not pool and self.pools[0].depth:
            self.dispatch(self.pools[0])  # its backpressure may have ended

    def _encoded(self, request: Request, replica: SimReplica) -> None:
        request.images_left -= 1
        request.embeddings_at.append(replica.domain)
        self.totals.done(Stage.ENCODE, self._profile.image_tokens)
        if not request.images_left and not request.ended:
            pool = self.pool_of[Stage.PREFILL]
            self._push(pool, self._prompt_hop(request))
            self.dispatch(pool)

    def _to_decode(self, request: Request) -> None:
        pool = self.pool_of[Stage.DECODE]
        context = self._context(request.tag)
        hop = Hop(
            request,
            tokens=request.output_tokens,
            steps=request.output_tokens - 1,
            context_tokens=context,
            kv_bytes=(context + request.output_tokens) * self._profile.kv_bytes_per_token,
        )
        self._push(pool, hop)
        self.dispatch(pool)

    def _answer(self, request: Request) -> None:
        now_s = self._clock.now_s
        request.ended = True
        ttft_s = request.first_token_s - request.arrival_s
        tpot_s = (now_s - request.first_token_s) / max(1, request.output_tokens - 1)
        attained = request.first_token_s <= request.due_s and tpot_s <= self._promises.tpot_s
        self.outcomes.answer(request.index, ttft_s, tpot_s, attained)
        self.totals.completed(request.output_tokens, tpot_s / self._promises.tpot_s, attained, now_s)

    def _expire(self, request: Request) -> None:
        if not request.ended:
            request.ended = True
            self._end(request.index, Ending.EXPIRED)
        if request.prefilled_on is not None and request.prefill_hop is not None:
            self._forget_kv(request, request.prefilled_on, request.prefill_hop)

    def _end(self, index: int, ending: Ending) -> None:
        self.outcomes.end(index, ending)
        self.totals.missed()


def _source_domain(hop: Hop) -> tuple[str, ...]:
    source = hop.request.prefilled_on
    return source.domain if source is not None else ()


def _now(pool: Pool) -> StageNow:
    ready = pool.ready()
    kv_bytes = sum(r.total_kv_bytes for r in ready)
    held = sum(r.total_kv_bytes - r.free_kv_bytes for r in ready)
    pending = 0 if pool.stage is Stage.DECODE else sum(r.pending_tokens for r in pool.replicas)
    return StageNow(
        waiting_units=float(pool.waiting_tokens + pending),
        waiting_jobs=pool.depth,
        running_jobs=sum(r.in_flight for r in pool.replicas),
        kv_usage=held / kv_bytes if kv_bytes else 0.0,
        busy_s=pool.busy_s(),
    )
