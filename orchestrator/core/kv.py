"""What a request holds in a KV cache, whether its media are in the prompt or in cross-attention layers."""

from dataclasses import dataclass

from orchestrator.core.profile import ModelProfile
from orchestrator.core.types import StageTag


@dataclass(frozen=True, slots=True, kw_only=True)
class KvSizes:
    """What a model keeps of what it reads.

    Attributes:
        token_bytes: KV cache of one position of a prompt or its completion, over all layers; ≥ 1.
        crossed_bytes: KV cache of `crossed_tokens` media tokens that are in no prompt (kappa 0) but in
            cross-attention layers; 0 for decoder-only models, whose media are positions of the prompt.
        crossed_tokens: ≥ 1.
    """

    token_bytes: int
    crossed_bytes: int = 0
    crossed_tokens: int = 1


def kv_sizes(kappa: int, token_bytes: int, profile: ModelProfile | None) -> KvSizes:
    """Return what a model keeps.

    Args:
        kappa: 1 if media are positions of the prompt, 0 if they go to cross-attention layers.
        token_bytes: See `KvSizes`.
        profile: Says what those layers keep. Without it, media are taken to fill every layer: more than they
            do, so that no replica is promised more than it has room for.
    """
    if kappa:
        return KvSizes(token_bytes=token_bytes)
    if profile is None:
        return KvSizes(token_bytes=token_bytes, crossed_bytes=token_bytes)
    return KvSizes(
        token_bytes=token_bytes, crossed_bytes=profile.image_kv_bytes, crossed_tokens=profile.image_tokens
    )


def kv_bytes(tag: StageTag, sizes: KvSizes, said_tokens: int) -> int:
    """Return the KV cache of a request's prompt, its media and `said_tokens` of its completion."""
    return (tag.prefill_tokens + said_tokens) * sizes.token_bytes + _crossed_bytes(tag, sizes)


def kv_positions(tag: StageTag, sizes: KvSizes, said_tokens: int) -> int:
    """Return what a decode step reads, in positions; media in cross-attention layers count by their bytes."""
    return tag.prefill_tokens + said_tokens + _crossed_bytes(tag, sizes) // sizes.token_bytes


def _crossed_bytes(tag: StageTag, sizes: KvSizes) -> int:
    return tag.encode_tokens * sizes.crossed_bytes // sizes.crossed_tokens if sizes.crossed_bytes else 0
