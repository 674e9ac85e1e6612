"""KV memory in blocks: a budget that is never exceeded, and pages of prompts seen before."""

from collections import OrderedDict
from collections.abc import Sequence

from stages.numerics import Array


class BlockBudget:
    """Counts blocks in use against a total. Not thread safe: it belongs to an engine's loop.

    Attributes:
        block_bytes: Bytes of one block.
        total_blocks: Blocks in all.
        used_blocks: Blocks taken; 0 ≤ used_blocks ≤ total_blocks.
    """

    def __init__(self, total_bytes: int, block_bytes: int) -> None:
        self.block_bytes = block_bytes
        self.total_blocks = total_bytes // block_bytes
        self.used_blocks = 0

    @property
    def free_bytes(self) -> int:
        """Bytes in blocks that nobody holds."""
        return (self.total_blocks - self.used_blocks) * self.block_bytes

    @property
    def total_bytes(self) -> int:
        """Bytes in all blocks."""
        return self.total_blocks * self.block_bytes

    def take(self, blocks: int) -> bool:
        """Take `blocks`, or nothing and return False if fewer are free."""
        if self.used_blocks + blocks > self.total_blocks:
            return False
        self.used_blocks += blocks
        return True

    def give(self, blocks: int) -> None:
        """Return blocks that were taken."""
        if blocks > self.used_blocks:
            raise ValueError(f"{blocks} blocks returned, {self.used_blocks} in use")
        self.used_blocks -= blocks


class PrefixCache:
    """Pages of KV by block name, least recently used out first, each one block of `budget`.

    A page is [layers, 2, kv_heads, block_tokens, head_dim]. Pages are copied in and out, so evicting one
    never touches a prompt that used it.

    Attributes:
        evictable_blocks: Pages held; all of them can be evicted at any time.
    """

    def __init__(self, budget: BlockBudget, block_tokens: int) -> None:
        self._budget = budget
        self._block_tokens = block_tokens
        self._pages: OrderedDict[str, Array] = OrderedDict()

    @property
    def evictable_blocks(self) -> int:
        """Pages held."""
        return len(self._pages)

    def match(self, names: Sequence[str]) -> int:
        """Return how many leading names are held, and mark those as just used."""
        count = 0
        while count < len(names) and names[count] in self._pages:
            count += 1
        # The last first: a page is worth nothing without those before it, so they must outlive it.
        for name in reversed(names[:count]):
            self._pages.move_to_end(name)
        return count

    def make_room(self, blocks: int) -> bool:
        """Evict until `blocks` are free; return False, evicting nothing, if that cannot be."""
        free = self._budget.total_blocks - self._budget.used_blocks
        if free + len(self._pages) < blocks:
            return False
        for _ in range(blocks - free):
            self._evict()
        return True

    def load(self, names: Sequence[str], slab: Array) -> None:
        """Copy the pages of `names`, which are held, to the start of a slab."""
        for index, name in enumerate(names):
            start = index * self._block_tokens
            slab[:, :, :, start : start + self._block_tokens] = self._pages[name]

    def store(self, names: Sequence[str], slab: Array) -> None:
        """Copy the leading blocks of a slab that are not held, as far as the budget goes."""
        names = names[: self._budget.total_blocks]
        for index in reversed(range(len(names))):
            if names[index] in self._pages:
                continue
            if not self.make_room(1):
                return
            self._budget.take(1)
            start = index * self._block_tokens
            self._pages[names[index]] = slab[:, :, :, start : start + self._block_tokens].copy()
        self.match(names)

    def _evict(self) -> None:
        self._pages.popitem(last=False)
        self._budget.give(1)
