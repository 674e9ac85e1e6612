"""What one replica keeps of work that comes again: embeddings of images, KV caches of prefixes."""

from collections import OrderedDict
from collections.abc import Sequence


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
