"""The prefixes of one service's prompts: believed by its gateway, and held by its replicas."""

from collections.abc import Mapping, Sequence

from orchestrator.prefix_index import PrefixIndex
from orchestrator.simulator.caches import PrefixPages
from orchestrator.simulator.hop import Hop
from orchestrator.simulator.replica import SimReplica


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
