"""The life of a request in one simulated service: tag → admit → route → encode → prefill → decode.

Tagging, admission, ordering and routing are the gateway's own functions; what Redis, Celery and the
engines do in between takes the time that the profile and the links say.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from orchestrator.core.admission import AdmissionBounds, admit, encode_held, stage_load
from orchestrator.core.counts import Backlog
from orchestrator.core.observe import Reading, ServiceView
from orchestrator.core.profile import ModelProfile
from orchestrator.core.tagger import tag
from orchestrator.core.types import MediaShape, Queued, Reason, Rejected, StageLoad
from orchestrator.core.waiting import WaitingParams, due_s, isolated_by_rates_s
from orchestrator.output_length import OutputLength
from orchestrator.simulator.clock import Clock
from orchestrator.simulator.content import NEW, Content
from orchestrator.simulator.engines import Milestones
from orchestrator.simulator.hop import NO_PREFIX, Embedding, Hop, Request
from orchestrator.simulator.outcomes import Ending, Outcomes
from orchestrator.simulator.pool import Pool
from orchestrator.simulator.prefixes import Prefixes
from orchestrator.simulator.replica import SimReplica
from orchestrator.totals import ServiceTotals, judge, ttft_ratio
from stages.types import Modality, Stage

COUNTER = "simulated"
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
        prefixes: What replicas hold of prompts; None if the requests say nothing of what they share.

    Attributes:
        reasons: Of admission (stage None) and of routing, with counts.
        on_idle: Hears of replicas that drain and have become empty.
        node_lost_s: When a node was last lost, by its id.
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
        prefixes: Prefixes | None = None,
    ) -> None:
        self._clock = clock
        self._profile = profile
        self._image_kv_positions = profile.image_kv_positions
        self._promises = promises
        self._speeds = speeds
        self._transfer = transfer
        self._prefixes = prefixes
        self._next = dict(zip(pools, (*pools[1:], None), strict=True))
        self._image = MediaShape(modality=Modality.IMAGE, tokens=profile.image_tokens)
        self.pools = pools
        self.pool_of = {stage: pool for pool in pools for stage in pool.stages}
        self._outputs = OutputLength()
        self.totals = totals
        self.outcomes = outcomes
        self.reasons: Counter[tuple[Stage | None, Reason]] = Counter()
        self._roused = False
        self.node_lost_s: dict[str, float] = {}
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
        content: Content = NEW,
        sent_s: float | None = None,
    ) -> None:
        """A request comes in; its client sent it at `sent_s`, now by default."""
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
        alone_s = isolated_by_rates_s(
            tagged,
            self._speeds.rates,
            images_at_once=self._speeds.images_at_once,
            preprocess_s=self._profile.preprocess_s,
        )
        request = Request(
            index,
            tagged,
            output_tokens,
            now_s if sent_s is None else sent_s,
            due_s(now_s, alone_s, self._promises.waiting),
            now_s + slack_s,
            content,
        )
        self._send_in(request, held=isinstance(admission, Queued))

    def load(self, stage: Stage) -> StageLoad:
        """Return a stage's load, as the gateway sees it."""
        pool = self.pool_of[stage]
        decoding = sum([r.decoding_tokens for r in pool.replicas]) if len(pool.stages) > 1 else 0
        waiting = pool.waiting_tokens - decoding
        return stage_load(stage, pool.replicas, waiting, self._speeds.rates[pool.stage])

    def view(self) -> ServiceView:
        """Return what control sees of it."""
        pools = self.pool_of
        waiting = {s: Backlog(float(pools[s].waiting_tokens), pools[s].depth) for s in Stage}
        return ServiceView(
            counts=(self.totals.count(COUNTER, self._clock.now_s, waiting),),
            readings={s: [Reading(r, r.engine.busy_s()) for r in pools[s].replicas] for s in Stage},
        )

    def dispatch(self, pool: Pool) -> None:
        """Start what can be started."""
        if not pool.depth or (pool.stages == (Stage.ENCODE,) and self._held()):
            return
        while pool.depth:
            while hop := pool.pop_expired(self._clock.now_s):
                self._expire(hop.request)
                self._rouse()
            placed = pool.pop_placeable(_source_domain)
            if placed is None:
                return
            hop, replica, reason = placed
            self.reasons[pool.stage, reason] += 1
            self._start(hop, replica)

    def dispatch_all(self) -> None:
        """Start what can be started of every stage, the last first: it makes room for those before."""
        for pool in reversed(self.pools):
            self.dispatch(pool)

    def give_up_expired(self) -> None:
        """End the requests that wait and are past their deadlines, and give their room to others."""
        now_s = self._clock.now_s
        expired = [
            hop
            for pool in self.pools
            if pool.depth
            for hop in pool.withdraw(lambda hop: hop.request.ended or now_s >= hop.request.deadline_s)
        ]
        for hop in expired:
            self._expire(hop.request)
            self._rouse()

    def _rouse(self) -> None:
        """Have every stage look for work at this moment: what was given up has made room somewhere."""
        if not self._roused:
            self._roused = True
            self._clock.after(0.0, self._on_roused, None)

    def _on_roused(self, _: None) -> None:
        self._roused = False
        self.dispatch_all()

    def is_gone(self, embedding: Embedding) -> bool:
        """Return whether the node of an embedding was lost since it was made."""
        lost_s = self.node_lost_s.get(embedding.node_id)
        return lost_s is not None and embedding.made_s <= lost_s

    def cancel(self, hop: Hop, replica: SimReplica) -> None:
        """Take a hop that has not begun off its replica."""
        hop.attempt += 1
        replica.give_back(hop)
        replica.free_kv(hop)
        if replica.draining and replica.empty:
            self.on_idle(replica)

    def push_images(self, request: Request, contents: Iterable[str]) -> None:
        """Let images that are to be encoded again wait for it."""
        for content in contents:
            request.images_left += 1
            self.push_image(request, content)

    def push_image(self, request: Request, content: str) -> None:
        """Let an image wait to be encoded."""
        hop = Hop(request, tokens=self._profile.image_tokens, images=1, content=content)
        self._push(self.pools[0], hop)

    def push_prompt(self, request: Request) -> None:
        """Let a prompt, with what was said already, wait for prefill."""
        self._push(self.pool_of[Stage.PREFILL], self._prompt_hop(request))

    def push_decode(self, request: Request) -> None:
        """Let a KV cache wait for decode."""
        expected = self._outputs.expect(request.output_tokens)
        hop = Hop(
            request,
            tokens=max(1, expected - request.said),
            steps=request.output_tokens - request.said - 1,
            context_tokens=self._context(request),
            kv_bytes=self._kv_bytes(request, request.output_tokens),
        )
        self._push(self.pool_of[Stage.DECODE], hop)

    def forget(self, pool: Pool) -> None:
        """A replica of the pool is gone, and what it kept with it."""
        if self._prefixes:
            self._prefixes.keep_only([r.replica_id for r in pool.replicas])

    def _held(self) -> bool:
        return encode_held(self.load(Stage.PREFILL), self._promises.bounds)

    def _send_in(self, request: Request, held: bool) -> None:
        first = self.pools[0]
        if first.stages == (Stage.ENCODE,) and request.images_left:
            for number in range(request.images_left):
                self.push_image(request, request.content.image(number))
            if not held:
                self.dispatch(first)
        else:
            self.push_prompt(request)
            self.dispatch(self.pool_of[Stage.PREFILL])

    def _push(self, pool: Pool, hop: Hop) -> None:
        pool.push(hop, hop.tokens / self._speeds.rates[pool.stage], self._clock.now_s)

    def _prompt_hop(self, request: Request) -> Hop:
        """Return the hop of the pool that prefills, with all that its replicas do."""
        tagged, stages = request.tag, self.pool_of[Stage.PREFILL].stages
        decodes = Stage.DECODE in stages
        images = len(tagged.item_tokens) if Stage.ENCODE in stages else 0
        prompt = tagged.prefill_tokens + request.said
        steps = request.output_tokens - request.said - 1 if decodes else 0
        blocks, prefixes = request.content.blocks, self._prefixes
        rates = self._speeds.rates
        seconds = images * self._speeds.image_s + steps / rates[Stage.DECODE] if len(stages) > 1 else 0.0
        return Hop(
            request,
            tokens=prompt + int(seconds * rates[Stage.PREFILL]),
            images=images,
            prompt_tokens=prompt,
            steps=steps,
            context_tokens=self._context(request),
            kv_bytes=self._kv_bytes(request, request.output_tokens if decodes else request.said),
            prefix_tokens=prefixes.believed(blocks) if prefixes and blocks else NO_PREFIX,
        )

    def _context(self, request: Request) -> int:
        """Return the KV positions of a prompt; an image in cross-attention layers is read like as many."""
        tagged = request.tag
        images = int(len(tagged.item_tokens) * self._image_kv_positions)
        return tagged.prefill_tokens + request.said + images

    def _kv_bytes(self, request: Request, output_tokens: int) -> int:
        """Return the KV of a prompt and so many tokens of its completion."""
        tokens, images = request.tag.prefill_tokens + output_tokens, len(request.tag.item_tokens)
        return tokens * self._profile.kv_bytes_per_token + images * self._profile.image_kv_bytes

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
            return sum(
                [self._transfer(size, source.domain, replica.domain) for source in request.embeddings_at]
            )
        if replica.stage is Stage.DECODE and request.prefilled_on is not None:
            size = self._kv_bytes(request, request.said)
            return self._transfer(size, request.prefilled_on.domain, replica.domain)
        return 0.0

    def _begin(self, started: tuple[Hop, int]) -> None:
        hop, attempt = started
        replica = hop.replica
        if attempt != hop.attempt or replica is None:
            return
        hop.begun = True
        if replica.stage is Stage.DECODE:
            self._pulled(hop)
        if self._prefixes and hop.prompt_tokens:
            self._prefixes.use(hop, replica)
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
            now_s = self._clock.now_s
            self.totals.first_token(ttft_ratio(request.arrival_s, request.due_s, now_s), now_s)

    def _prefilled(self, hop: Hop) -> None:
        tokens = hop.request.tag.prefill_tokens + hop.request.said
        self.totals.prefilled(tokens, hop.cached_tokens)
        self.totals.done(Stage.PREFILL, tokens - hop.cached_tokens)
        if hop.cached_images:
            self.totals.image_hit(hop.cached_images * self._profile.image_tokens)
        if self._prefixes and hop.replica is not None:
            self._prefixes.keep(hop, hop.replica)
        if Stage.DECODE in self.pool_of[Stage.PREFILL].stages:
            self._first_token(hop.request)
            if hop.replica is not None:
                hop.replica.prefilled(hop, self._decode_work(hop.steps))

    def _decode_work(self, steps: int) -> int:
        """Return the prompt tokens that could be prefilled in a decode's share of the time."""
        rates = self._speeds.rates
        return int(steps / rates[Stage.DECODE] * rates[Stage.PREFILL])

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
            self._encoded(hop, replica)
        else:
            request.prefilled_on, request.prefill_hop = replica, hop
            self.push_decode(request)
            self.dispatch(self.pool_of[Stage.DECODE])
        if replica.draining and replica.empty:
            self.on_idle(replica)
        self.dispatch(pool)
        if pool.stage is Stage.PREFILL and self.pools[0] is not pool and self.pools[0].depth:
            self.dispatch(self.pools[0])  # its backpressure may have ended

    def _encoded(self, hop: Hop, replica: SimReplica) -> None:
        request = hop.request
        request.images_left -= 1
        made = Embedding(replica.domain, replica.node_id, self._clock.now_s, hop.content)
        request.embeddings_at.append(made)
        if hop.cached_images:
            self.totals.image_hit(self._profile.image_tokens)
        else:
            self.totals.done(Stage.ENCODE, self._profile.image_tokens)
        if not request.images_left and not request.ended:
            self.push_prompt(request)
            self.dispatch(self.pool_of[Stage.PREFILL])

    def _answer(self, request: Request) -> None:
        now_s = self._clock.now_s
        request.ended = True
        self._outputs.observe(request.output_tokens)
        ttft_s = request.first_token_s - request.arrival_s
        target_s = self._promises.tpot_s
        tpot_s, attained = judge(request.due_s, request.first_token_s, now_s, request.output_tokens, target_s)
        self.outcomes.answer(request.index, ttft_s, tpot_s, attained)
        self.totals.completed(request.output_tokens, tpot_s / target_s, attained, now_s)

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
