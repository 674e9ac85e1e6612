"""What replicas keep of work that comes again: embeddings of images, KV caches of prefixes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.prefix_index import PrefixIndex

if TYPE_CHECKING:
    from orchestrator.simulator.hop import Hop
    from orchestrator.simulator.replica import SimReplica


@dataclass(frozen=True, slots=True)
class Content:
    """What of a request may have been seen before.

    Attributes:
        images: Names its images, equal for equal ones; empty if they do not repeat.
        blocks: Names the blocks of its prompt, first to last; equal leading names mean an equal prefix.
    """

    images: str = ""
    blocks: Sequence[int] = ()

    def image(self, number: int) -> str:
        """Return the name of one image, empty if it does not repeat."""
        return f"{self.images}.{number}" if self.images else ""


NEW = Content()
"""Nothing of it was seen before: a trace that says nothing of contents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hits:
    """What caches supplied, and of how much.

    Attributes:
        image_tokens: Offered.
        cached_image_tokens: Supplied by embedding caches.
        prompt_tokens: Prefilled.
        cached_prompt_tokens: Supplied by prefix caches.
    """

    image_tokens: float
    cached_image_tokens: float
    prompt_tokens: float
    cached_prompt_tokens: float


class EmbeddingCache:
    """The images whose embeddings a replica holds, least recently used out first.

    All have the profile's size, so room is counted in images. An image is held from the moment that its
    encoding is certain, for its end is known then, and whoever asks before has to wait for it.

    Args:
        images: Room.
    """

    def __init__(self, images: int) -> None:
        self._images = images
        self._ready_s: OrderedDict[str, float] = OrderedDict()

    def find(self, image: str) -> float | None:
        """Return when the image is or was encoded, None if it is not held; mark it as just used."""
        ready_s = self._ready_s.get(image)
        if ready_s is not None:
            self._ready_s.move_to_end(image)
        return ready_s

    def hold(self, image: str, ready_s: float) -> None:
        """Hold an image that will have been encoded at `ready_s`."""
        self._ready_s[image] = ready_s
        self._ready_s.move_to_end(image)
        while len(self._ready_s) > self._images:
            self._ready_s.popitem(last=False)


class PrefixPages:
    """The blocks of prompts whose KV one replica holds, least recently used out first.

    As `stages.paged_kv.PrefixCache` has it: blocks give way to running prompts, and one is worth nothing
    without those before it, so it goes before them.
    """

    def __init__(self) -> None:
        self._held: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def match(self, blocks: Sequence[int]) -> int:
        """Return how many leading blocks are held, and mark those as just used."""
        count = 0
        while count < len(blocks) and blocks[count] in self._held:
            count += 1
        for block in reversed(blocks[:count]):
            self._held.move_to_end(block)
        return count

    def store(self, blocks: Sequence[int], room: int) -> None:
        """Hold the blocks of a prompt as far as there is room for so many blocks in all."""
        for block in reversed(blocks[: max(0, room)]):
            self._held[block] = None
            self._held.move_to_end(block)
        self.fit(room)

    def fit(self, room: int) -> None:
        """Let blocks go until there are at most `room`."""
        while len(self._held) > max(0, room):
            self._held.popitem(last=False)


class Prefixes:
    """Prefixes of one service: what its gateway believes of each replica, and what that holds.

    Args:
        block_tokens: Tokens of a block.
        block_bytes: KV of one.
    """

    def __init__(self, block_tokens: int, block_bytes: int) -> None:
        self._block_tokens = block_tokens
        self._block_bytes = block_bytes
        self._index = PrefixIndex(block_tokens)
        self._pages: dict[str, PrefixPages] = {}

    def believed(self, blocks: Sequence[int]) -> Mapping[str, int]:
        """Return the leading tokens that each replica is believed to hold."""
        return self._index.match(blocks)

    def use(self, hop: Hop, replica: SimReplica) -> None:
        """A prompt begins: what the replica holds of it need not be computed.

        The last position always is, for its output is the first token.
        """
        pages = self._pages.setdefault(replica.replica_id, PrefixPages())
        usable = hop.request.content.blocks[: (hop.prompt_tokens - 1) // self._block_tokens]
        hop.cached_tokens = pages.match(usable) * self._block_tokens
        hop.prompt_tokens -= hop.cached_tokens
        pages.fit(self._room(replica))

    def keep(self, hop: Hop, replica: SimReplica) -> None:
        """A prompt is computed: hold its whole blocks, in memory that running prompts leave."""
        prompt_tokens = hop.request.tag.prefill_tokens
        whole = hop.request.content.blocks[: prompt_tokens // self._block_tokens]
        self._pages.setdefault(replica.replica_id, PrefixPages()).store(whole, self._room(replica))
        self._index.record(replica.replica_id, whole)

    def keep_only(self, replica_ids: Sequence[str]) -> None:
        """Forget replicas that are gone."""
        self._index.keep_only(replica_ids)
        alive = set(replica_ids)
        self._pages = {id_: pages for id_, pages in self._pages.items() if id_ in alive}

    def _room(self, replica: SimReplica) -> int:
        return replica.free_kv_bytes // self._block_bytes
