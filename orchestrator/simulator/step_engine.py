"""A replica that prefills, and may encode and decode too: all of it in common steps."""

from orchestrator.core.profile import DecodeTiming, PrefillTiming
from orchestrator.simulator.busy_time import BusyTime
from orchestrator.simulator.caches import EmbeddingCache
from orchestrator.simulator.clock import Clock
from orchestrator.simulator.engine import UNBOUNDED, Milestones, Work
from orchestrator.simulator.hop import Hop
from orchestrator.simulator.running_batch import RunningBatch
from orchestrator.simulator.step_queues import Chunk, ImageQueue, PromptQueue, Seats

NO_DECODE = DecodeTiming(step_s=0.0, sequence_s=0.0, context_token_s=0.0)
"""Of a replica whose hops have no decode steps."""


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
        decode: DecodeTiming = NO_DECODE,
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
        self._decode_alone_s = decode.step_s
        self._image_s = image_s
        self._preprocess_s = preprocess_s
        self._cache = EmbeddingCache(cached_images)
        self._seats = Seats(sequences, kv_bytes)
        self._images = ImageQueue(images_at_once)
        self._prompts = PromptQueue(chunk_tokens)
        self._batch = RunningBatch(clock, decode, self._through, self._go_on)
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
        if not self._stepping:
            self._batch.catch_up()
        return self._batch.steps_left(hop)

    def stop(self) -> None:
        """See `Engine`."""
        self._stopped = True
        self._batch.stop()

    def _look_up(self, hop: Hop) -> None:
        names = [hop.request.content.image(number) for number in range(hop.images)]
        hop.cached_images = sum(self._cache.find(name) is not None for name in names)
        hop.images -= hop.cached_images

    def _take(self, hop: Hop) -> None:
        if self._stopped:
            return
        self._seats.wait(hop)
        self._let_in()
        if not self._stepping:
            self._batch.catch_up()
            self._go_on()

    def _let_in(self) -> None:
        for hop in self._seats.let_in():
            if hop.images:
                self._images.add(hop)
            else:
                self._prompts.add(hop)

    def _go_on(self) -> None:
        """Begin the next step, or let the batch run by itself."""
        if self._images.come_before(self._prompts):
            self._images.take()
            self._begin(self._image_s, [])
        elif len(self._prompts):
            chunk = self._prompts.pick()
            self._begin(self._prefill.step_s(sum(tokens for _, tokens in chunk)), chunk)
        else:
            self._batch.run()

    def _begin(self, step_s: float, chunk: Chunk) -> None:
        self._stepping = True
        self._batch.hold()
        self._work(step_s + self._batch.added_s(self._decode_alone_s), self._end, chunk)

    def _end(self, chunk: Chunk) -> None:
        if self._stopped:
            return
        self._stepping = False
        self._batch.step()
        if not chunk:
            for hop in self._images.encoded():
                self._encoded(hop)
        for hop, tokens in chunk:
            if self._prompts.computed(hop, tokens):
                self._prefilled(hop)
        if not self._stepping:
            self._go_on()

    def _encoded(self, hop: Hop) -> None:
        self._prompts.add(hop)
        content = hop.request.content
        if content.images:
            for number in range(len(hop.request.tag.item_tokens)):
                self._cache.hold(content.image(number), self._clock.now_s)

    def _prefilled(self, hop: Hop) -> None:
        self._to.prefilled(hop)
        if hop.steps > 0:
            self._batch.join(hop)
        else:
            self._through(hop)

    def _through(self, hop: Hop) -> None:
        """All is done of a hop: those in front may come in."""
        self._seats.leave(hop)
        self._let_in()
        self._busy.leave()
        self._to.done(hop)
