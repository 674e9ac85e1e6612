"""What prefixes each prefill replica is believed to have cached, from what was routed to it."""

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence

_BLOCKS_PER_REPLICA = 4_096


class PrefixIndex:
    """Block hashes by replica, least recently routed first out.

    An approximation on purpose: replicas do not report their caches, so an evicted block may still be
    listed here. A wrong guess costs a prefill, never a wrong answer.
    """

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._blocks: dict[str, OrderedDict[Hashable, None]] = {}

    def record(self, replica_id: str, hashes: Sequence[Hashable]) -> None:
        """Note that a prompt with these chained block hashes was prefilled on the replica."""
        known = self._blocks.setdefault(replica_id, OrderedDict())
        for block in hashes:
            known[block] = None
            known.move_to_end(block)
        while len(known) > _BLOCKS_PER_REPLICA:
            known.popitem(last=False)

    def match(self, hashes: Sequence[Hashable]) -> Mapping[str, int]:
        """Return the leading tokens that each replica is believed to hold, for those that hold any."""
        found = {replica_id: self._leading(known, hashes) for replica_id, known in self._blocks.items()}
        return {replica_id: tokens for replica_id, tokens in found.items() if tokens}

    def keep_only(self, replica_ids: Sequence[str]) -> None:
        """Forget replicas that are gone."""
        alive = set(replica_ids)
        self._blocks = {id_: known for id_, known in self._blocks.items() if id_ in alive}

    def _leading(self, known: OrderedDict[Hashable, None], hashes: Sequence[Hashable]) -> int:
        count = 0
        for block in hashes:
            if block not in known:
                break
            count += 1
        return count * self._block_tokens
