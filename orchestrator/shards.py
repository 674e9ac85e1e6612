"""Which of a stack's Redis servers a service lives on: whole, with queues, ledger, registry and policy."""

from hashlib import sha256


def shard_of(service: str, shards: int) -> int:
    """Return the shard of a service, from 0 to `shards` - 1.

    Rendezvous hashing (Thaler and Ravishankar, 1998): of n + 1 shards the new one takes over one service in
    n + 1, and all others stay where they are.
    """
    return max(range(shards), key=lambda shard: sha256(f"{service}/{shard}".encode()).digest())
