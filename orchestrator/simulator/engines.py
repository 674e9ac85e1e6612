"""What happens inside a replica: encode, chunked prefill, continuous batching, or several of them in one.

An engine is handed hops and calls back when they are through. Its times come from the profile.
"""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.core.profile import DecodeTiming, PrefillTiming
from orchestrator.simulator.caches import EmbeddingCache
from orchestrator.simulator.clock import Clock
from orchestrator.simulator.decode_batch import DecodeBatch
from orchestrator.simulator.hop import Hop

UNBOUNDED = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Milestones:
    """Whom an engine tells of a hop's progress.

    Attributes:
        prefilled: Its prompt is computed and the first token sampled.
        done: All that the hop wanted of this replica is done.
        first: A replica that decodes alone lets go of the first token.
    """

    prefilled: Callable[[Hop], None]
    done: Callable[[Hop], None]
    first: Callable[[Hop], None] = lambda hop: None


Work = Callable[[float, Callable[[Any], None], Any], None]
"""Does so many seconds of work, then calls back: `Clock.after`, or `Process.run` of a host."""


class Engine(Protocol):
    """One replica's engine. After `stop` it calls nobody back."""

    def submit(self, hop: Hop) -> None:
        """Take a hop."""

    def busy_s(self) -> float:
        """Return the seconds in which it has had work, up to now."""

    def steps_left(self, hop: Hop) -> int | None:
        """Return the decode steps that a hop has still to make, None if it does not decode here."""

    def stop(self) -> None:
        """Lose all work."""


class BusyTime:
    """Adds up the seconds in which a count is above 0."""

    __slots__ = ("_clock", "_since_s", "_total_s", "count")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._total_s = 0.0
        self._since_s = 0.0
        self.count = 0

    def enter(self) -> None:
        """One more."""
        if not self.count:
            self._since_s = self._clock.now_s
        self.count += 1

    def leave(self) -> None:
        """One fewer."""
        self.count -= 1
        if not self.count:
            self._total_s += self._clock.now_s - self._since_s

    def total_s(self) -> float:
        """Return the sum up to now."""
        return self._total_s + (self._clock.now_s - self._since_s if self.count else 0.0)


class EncodeEngine:
    """Images one after another on the accelerator, each prepared on a processor core before.

    With first come, first served and known times, an image's end is known when it comes: one event an image.
    What the embedding cache has takes no time, as in `stages.encode_engine`.
    """

    def __init__(
        self,
        clock: Clock,
        milestones: Milestones,
        *,
        image_s: float,
        preprocess_s: float,
        cores: int,
        cached_images: int = 0,
    ) -> None:
        self._clock = clock
        self._done = milestones.done
        self._image_s = image_s
        self._preprocess_s = preprocess_s
        self._cores_free_s = [0.0] * cores
        self._cache = EmbeddingCache(cached_images)
        self._free_s = 0.0
        self._busy_s = 0.0
        self._stopped = False

    def submit(self, hop: Hop) -> None:
        """See `Engine`."""
        now_s = self._clock.now_s
        if hop.content and (ready_s := self._cache.find(hop.content)) is not None:
            hop.cached_images, hop.images = hop.images, 0
            self._clock.at(max(now_s, ready_s), self._finish, hop)
            return
        prepared_s = max(now_s, self._cores_free_s[0]) + self._preprocess_s
        heapq.heapreplace(self._cores_free_s, prepared_s)
        work_s = self._image_s * hop.images
        self._free_s = max(prepared_s, self._free_s) + work_s
        self._busy_s += work_s
        if hop.content:
            self._cache.hold(hop.content, self._free_s)
        self._clock.at(self._free_s, self._finish, hop)

    def busy_s(self) -> float:
        """See `Engine`. Of what is queued on the accelerator only the past counts."""
        return self._busy_s - max(0.0, self._free_s - self._clock.now_s)

    def steps_left(self, hop: Hop) -> int | None:
        """See `Engine`."""
        return None

    def stop(self) -> None:
        """See `Engine`."""
        self._stopped = True

    def _finish(self, hop: Hop) -> None:
        if not self._stopped:
            self._done(hop)


class DecodeEngine:
    """Continuous batching; an event for a join and one for a leave, none for a token."""

    def __init__(self, clock: Clock, milestones: Milestones, timing: DecodeTiming) -> None:
        self._clock = clock
        self._first = milestones.first
        self._done = milestones.done
        self._batch: DecodeBatch[Hop] = DecodeBatch(timing)
        self._as_of_s = 0.0
        self._plan = 0
        self._busy = BusyTime(clock)

    def submit(self, hop: Hop) -> None:
        """See `Engine`."""
        self._first(hop)
        self._catch_up()
        self._busy.enter()
        self._batch.join(hop, hop.context_tokens, hop.steps)
        self._expect_next()

    def busy_s(self) -> float:
        """See `Engine`."""
        return self._busy.total_s()

    def steps_left(self, hop: Hop) -> int | None:
        """See `Engine`."""
        self._catch_up()
        return self._batch.steps_left(hop)

    def stop(self) -> None:
        """See `Engine`."""
        self._plan = -1

    def _catch_up(self) -> None:
        self._batch.advance(self._clock.now_s - self._as_of_s)
        self._as_of_s = self._clock.now_s

    def _expect_next(self) -> None:
        self._plan += 1
        if len(self._batch):
            self._clock.after(self._batch.next_done_s(), self._on_done, self._plan)

    def _on_done(self, plan: int) -> None:
        if plan != self._plan:
            return  # somebody joined since: the batch became slower
        self._catch_up()
        while hop := self._batch.pop_done():
            self._busy.leave()
            self._done(hop)
        if self._plan == plan:  # nobody joined in turn
            self._expect_next()


class StepEngine:
    """Prefill in chunks, and in the same steps encode or decode if the replica has those roles too.

    A step takes either images, first come, first served, or a chunk of prompts, whichever came first;
    whoever decodes here makes one token in it and waits for all of it, which is the interference that
    disaggregation avoids. Without images and prompts, decode runs in closed form.

    Args:
        clock: The virtual clock.
        milestones: Whom to tell.
        prefill: Timing of prompts.
        chunk_tokens: Prompt tokens in a step at most.
        decode: Timing of decode, if this replica decodes.
        image_s: Seconds for one image, if it encodes.
        images_at_once: Images that one step takes side by side: the data-parallel width of the encoder.
        preprocess_s: Processor seconds before an image can be encoded.
        sequences: Prompts and decodes that it works on at once; the others wait in front of it.
        kv_bytes: KV cache for them.
        cached_images: Embeddings that it keeps.
        work: Does its steps; by default they take as long as the profile says.
    """

    def __init__(
        self,
        clock: Clock,
        milestones: Milestones,
        prefill: PrefillTiming,
        chunk_tokens: int,
        *,
        decode: DecodeTiming | None = None,
        image_s: float = 0.0,
        images_at_once: int = 1,
        preprocess_s: float = 0.0,
        sequences: int = UNBOUNDED,
        kv_bytes: int = UNBOUNDED,
        cached_images: int = 0,
        work: Work | None = None,
    ) -> None:
        self._clock = clock
        self._work = work or clock.after
        self._to = milestones
        self._prefill = prefill
        self._chunk_tokens = chunk_tokens
        self._decode = decode
        self._image_s = image_s
        self._images_at_once = images_at_once
        self._preprocess_s = preprocess_s
        self._sequences_left = sequences
        self._kv_bytes_left = kv_bytes
        self._cache = EmbeddingCache(cached_images)
        self._waiting: deque[Hop] = deque()
        self._to_encode: deque[Hop] = deque()
        self._to_prefill: list[Hop] = []
        self._batch: DecodeBatch[Hop] | None = DecodeBatch(decode) if decode else None
        self._as_of_s = 0.0
        self._plan = 0
        self._stepping = False
        self._stopped = False
        self._busy = BusyTime(clock)

    def submit(self, hop: Hop) -> None:
        """See `Engine`."""
        self._busy.enter()
        if hop.images and hop.request.content.images:
            self._look_up(hop)
        if hop.images and self._preprocess_s:
            self._clock.after(self._preprocess_s, self._take, hop)
        else:
            self._take(hop)

    def busy_s(self) -> float:
        """See `Engine`."""
        return self._busy.total_s()

    def steps_left(self, hop: Hop) -> int | None:
        """See `Engine`."""
        if self._batch is None:
            return None
        if not self._stepping:
            self._catch_up()
        return self._batch.steps_left(hop)

    def stop(self) -> None:
        """See `Engine`."""
        self._stopped = True
        self._plan = -1

    def _take(self, hop: Hop) -> None:
        if self._stopped:
            return
        self._waiting.append(hop)
        self._let_in()
        if not self._stepping:
            self._catch_up()
            self._go_on()

    def _look_up(self, hop: Hop) -> None:
        names = [hop.request.content.image(number) for number in range(hop.images)]
        hop.cached_images = sum(self._cache.find(name) is not None for name in names)
        hop.images -= hop.cached_images

    def _encoded(self, hop: Hop) -> None:
        self._to_prefill.append(hop)
        content = hop.request.content
        if content.images:
            for number in range(len(hop.request.tag.item_tokens)):
                self._cache.hold(content.image(number), self._clock.now_s)

    def _let_in(self) -> None:
        """Let hops in from the front, first come, first served, while there is room."""
        while self._waiting and self._sequences_left > 0:
            hop = self._waiting[0]
            if hop.kv_bytes > self._kv_bytes_left:
                return
            self._waiting.popleft()
            self._sequences_left -= 1
            self._kv_bytes_left -= hop.kv_bytes
            if hop.images:
                self._to_encode.append(hop)
            else:
                self._to_prefill.append(hop)

    def _through(self, hop: Hop) -> None:
        self._sequences_left += 1
        self._kv_bytes_left += hop.kv_bytes
        self._let_in()
        self._busy.leave()
        self._to.done(hop)

    def _go_on(self) -> None:
        """Begin the next step, or let the batch run by itself."""
        self._plan += 1
        if self._encode_is_next():
            self._take_images()
            self._begin(self._image_s, [])
        elif self._to_prefill:
            chunk = self._pick_chunk()
            self._begin(self._prefill.step_s(sum(tokens for _, tokens in chunk)), chunk)
        elif self._batch is not None and len(self._batch):
            self._clock.after(self._batch.next_done_s(), self._on_done, self._plan)

    def _take_images(self) -> None:
        """Take the next images of a step, of as many requests as fit side by side."""
        room = self._images_at_once
        for hop in self._to_encode:
            images = min(hop.images, room)
            hop.images -= images
            room -= images
            if not room:
                return

    def _encode_is_next(self) -> bool:
        if not self._to_encode:
            return False
        first_s = min((hop.queued_s for hop in self._to_prefill), default=float("inf"))
        return self._to_encode[0].queued_s <= first_s

    def _pick_chunk(self) -> list[tuple[Hop, int]]:
        """Fill a step, least left first; a prompt that is passed over ages to the front."""
        chunk, room = [], self._chunk_tokens
        if len(self._to_prefill) > 1:
            self._to_prefill.sort(key=lambda hop: hop.prompt_tokens - hop.steps_waited * self._chunk_tokens)
        for hop in self._to_prefill:
            tokens = min(hop.prompt_tokens, room)
            if tokens or not hop.prompt_tokens:
                chunk.append((hop, tokens))
                room -= tokens
            else:
                hop.steps_waited += 1
        return chunk

    def _begin(self, step_s: float, chunk: list[tuple[Hop, int]]) -> None:
        self._stepping = True
        if self._batch is not None and self._decode is not None and len(self._batch):
            # Weights are read once for prompts and decodes together.
            step_s += self._batch.step_s() - self._decode.step_s
        self._work(step_s, self._end, chunk)

    def _end(self, chunk: list[tuple[Hop, int]]) -> None:
        if self._stopped:
            return
        self._stepping = False
        self._as_of_s = self._clock.now_s
        if self._batch is not None and len(self._batch):
            self._batch.step()
            self._finish_done(self._batch)
        while not chunk and self._to_encode and not self._to_encode[0].images:
            self._encoded(self._to_encode.popleft())
        for hop, tokens in chunk:
            hop.prompt_tokens -= tokens
            if not hop.prompt_tokens:
                self._to_prefill.remove(hop)
                self._prefilled(hop)
        if not self._stepping:
            self._go_on()

    def _prefilled(self, hop: Hop) -> None:
        self._to.prefilled(hop)
        if self._batch is not None and hop.steps > 0:
            self._batch.join(hop, hop.context_tokens, hop.steps)
        else:
            self._through(hop)

    def _catch_up(self) -> None:
        if self._batch is not None:
            self._batch.advance(self._clock.now_s - self._as_of_s)
        self._as_of_s = self._clock.now_s

    def _on_done(self, plan: int) -> None:
        if plan != self._plan or self._batch is None:
            return
        self._catch_up()
        self._finish_done(self._batch)
        if self._plan == plan and not self._stepping:
            self._go_on()

    def _finish_done(self, batch: DecodeBatch[Hop]) -> None:
        while hop := batch.pop_done():
            self._through(hop)
