"""What waits for an engine's steps: in front of it, with images to encode, with a prompt to compute."""

from collections import deque
from collections.abc import Iterator

from orchestrator.simulator.hop import Hop

Chunk = list[tuple[Hop, int]]
"""The prompt tokens of each hop in one step; empty for a step of images."""


class Seats:
    """Sequences and KV that an engine works on at once; the others wait in front, first come, first served.

    Args:
        sequences: Prompts and decodes.
        kv_bytes: KV cache for them.
    """

    __slots__ = ("_kv_bytes_left", "_sequences_left", "_waiting")

    def __init__(self, sequences: int, kv_bytes: int) -> None:
        self._sequences_left = sequences
        self._kv_bytes_left = kv_bytes
        self._waiting: deque[Hop] = deque()

    def wait(self, hop: Hop) -> None:
        """Wait to be let in."""
        self._waiting.append(hop)

    def let_in(self) -> Iterator[Hop]:
        """Seat hops from the front while there is room, and yield them."""
        waiting = self._waiting
        while waiting and self._sequences_left > 0 and waiting[0].kv_bytes <= self._kv_bytes_left:
            hop = waiting.popleft()
            self._sequences_left -= 1
            self._kv_bytes_left -= hop.kv_bytes
            yield hop

    def leave(self, hop: Hop) -> None:
        """Make room."""
        self._sequences_left += 1
        self._kv_bytes_left += hop.kv_bytes


class PromptQueue:
    """Prompts to compute, the one with the least left first; one that is passed over ages to the front.

    Args:
        chunk_tokens: Prompt tokens in a step at most.
    """

    __slots__ = ("_chunk_tokens", "_hops")

    def __init__(self, chunk_tokens: int) -> None:
        self._chunk_tokens = chunk_tokens
        self._hops: list[Hop] = []

    def __len__(self) -> int:
        return len(self._hops)

    def add(self, hop: Hop) -> None:
        """Queue a hop."""
        self._hops.append(hop)

    def first_s(self) -> float:
        """Return when the first that is here came to its pool; infinite if nobody is."""
        return min((hop.queued_s for hop in self._hops), default=float("inf"))

    def pick(self) -> Chunk:
        """Fill a step."""
        chunk, room = [], self._chunk_tokens
        if len(self._hops) > 1:
            self._hops.sort(key=lambda hop: hop.prompt_tokens - hop.steps_waited * self._chunk_tokens)
        for hop in self._hops:
            tokens = min(hop.prompt_tokens, room)
            if tokens or not hop.prompt_tokens:
                chunk.append((hop, tokens))
                room -= tokens
            else:
                hop.steps_waited += 1
        return chunk

    def computed(self, hop: Hop, tokens: int) -> bool:
        """Note that a step has computed tokens of a prompt; take it out and return True if that was all."""
        hop.prompt_tokens -= tokens
        if hop.prompt_tokens:
            return False
        self._hops.remove(hop)
        return True


class ImageQueue:
    """Hops with images to encode, first come, first served.

    Args:
        at_once: Images that one step takes side by side.
    """

    __slots__ = ("_at_once", "_hops")

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._hops: deque[Hop] = deque()

    def add(self, hop: Hop) -> None:
        """Queue a hop."""
        self._hops.append(hop)

    def come_before(self, prompts: PromptQueue) -> bool:
        """Whether there are images that came no later than every prompt."""
        return bool(self._hops) and self._hops[0].queued_s <= prompts.first_s()

    def take(self) -> None:
        """Take the next images of a step, of as many hops as fit side by side."""
        room = self._at_once
        for hop in self._hops:
            images = min(hop.images, room)
            hop.images -= images
            room -= images
            if not room:
                return

    def encoded(self) -> Iterator[Hop]:
        """Take out and yield the hops that have no images left."""
        while self._hops and not self._hops[0].images:
            yield self._hops.popleft()
