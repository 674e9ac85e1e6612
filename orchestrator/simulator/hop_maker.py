"""Makes the hops of a request: what each visit to a replica brings there and holds there."""

from orchestrator.core.kv import kv_bytes, kv_positions, kv_sizes
from orchestrator.output_length import OutputLength
from orchestrator.simulator.hop import NO_PREFIX, Hop, Request
from orchestrator.simulator.prefixes import Prefixes
from orchestrator.simulator.terms import Terms
from stages.types import Stage


class HopMaker:
    """Makes the hops of one service.

    Args:
        terms: What the service is told.
        prefill_stages: What the replicas that prefill do.
        lengths: Of completions so far.
        prefixes: What replicas hold of prompts; None if the requests say nothing of what they share.
    """

    def __init__(
        self,
        terms: Terms,
        prefill_stages: tuple[Stage, ...],
        lengths: OutputLength,
        prefixes: Prefixes | None,
    ) -> None:
        profile, speeds = terms.profile, terms.speeds
        self._image_tokens = profile.image_tokens
        self._kv = kv_sizes(profile.kappa, profile.kv_bytes_per_token, profile)
        self._image_s = speeds.image_s
        self._rates = speeds.rates
        self._encodes, self._decodes = (stage in prefill_stages for stage in (Stage.ENCODE, Stage.DECODE))
        self._lengths = lengths
        self._prefixes = prefixes

    def image(self, request: Request, content: str) -> Hop:
        """Return the hop of one image to encode."""
        return Hop(request, tokens=self._image_tokens, images=1, content=content)

    def prompt(self, request: Request) -> Hop:
        """Return the hop of the pool that prefills, with all that it does; what was said is prompt."""
        tagged = request.tag
        images = len(tagged.item_tokens) if self._encodes else 0
        prompt = tagged.prefill_tokens + request.said
        steps = request.output_tokens - request.said - 1 if self._decodes else 0
        blocks, prefixes = request.content.blocks, self._prefixes
        return Hop(
            request,
            tokens=prompt + self._as_prompt(images, steps),
            images=images,
            prompt_tokens=prompt,
            steps=steps,
            context_tokens=kv_positions(tagged, self._kv, request.said),
            kv_bytes=kv_bytes(tagged, self._kv, request.output_tokens if self._decodes else request.said),
            prefix_tokens=prefixes.believed(blocks) if prefixes and blocks else NO_PREFIX,
        )

    def decode(self, request: Request) -> Hop:
        """Return the hop of a KV cache to decode."""
        expected = self._lengths.expect(request.output_tokens)
        return Hop(
            request,
            tokens=max(1, expected - request.said),
            steps=request.output_tokens - request.said - 1,
            context_tokens=kv_positions(request.tag, self._kv, request.said),
            kv_bytes=kv_bytes(request.tag, self._kv, request.output_tokens),
        )

    def moved_bytes(self, request: Request) -> int:
        """Return what decode pulls of a request."""
        return kv_bytes(request.tag, self._kv, request.said)

    def decode_tokens(self, steps: int) -> int:
        """Return the prompt tokens that could be prefilled in a decode's share of the time."""
        return int(steps / self._rates[Stage.DECODE] * self._rates[Stage.PREFILL])

    def _as_prompt(self, images: int, steps: int) -> int:
        """Return the prompt tokens that could be prefilled while a replica does the other stages of a hop."""
        if not (images or steps):
            return 0
        seconds = images * self._image_s + steps / self._rates[Stage.DECODE]
        return int(seconds * self._rates[Stage.PREFILL])
