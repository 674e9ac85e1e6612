"""Room in a KV cache, in blocks of so many tokens."""


class BlockPool:
    """Numbered blocks. Block 0 is the null block, as in vLLM, and is never given out."""

    def __init__(self, blocks: int, block_size: int) -> None:
        self._free = list(range(blocks, 0, -1))
        self.total = blocks
        self.block_size = block_size

    @property
    def used(self) -> int:
        """Blocks that somebody holds."""
        return self.total - len(self._free)

    def needed(self, tokens: int) -> int:
        """Return the blocks that so many tokens take."""
        return -(-tokens // self.block_size)

    def grow(self, held: list[int], tokens: int) -> bool:
        """Add to `held` until it has room for `tokens`; return whether that went, all or nothing."""
        missing = self.needed(tokens) - len(held)
        if missing > len(self._free):
            return False
        held += [self._free.pop() for _ in range(missing)]
        return True

    def release(self, held: list[int]) -> None:
        """Take all blocks back."""
        self._free += held
        held.clear()
