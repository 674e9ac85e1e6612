"""Names of prompt blocks: equal names mean equal tokens and equal media up to the block's end.

No numpy here: the gateway's router computes the same names as the prefill engine's cache.
"""

import hashlib
from collections.abc import Iterator

from stages.types import MediaSpan, Prompt

BLOCK_TOKENS = 8
"""Positions of one block of the prefix cache."""


def block_hashes(prompt: Prompt, block_tokens: int = BLOCK_TOKENS) -> tuple[str, ...]:
    """Return the name of each whole block of `prompt`, first to last; a rest without a name is dropped.

    A name is the hex BLAKE2b-128 of the name before it, the block's token ids, and for each media item
    that reaches into the block its content hash, its length and its place relative to the block.
    """
    names: list[str] = []
    name = ""
    for start in range(0, len(prompt.token_ids) - block_tokens + 1, block_tokens):
        stop = start + block_tokens
        parts = [name, *map(str, prompt.token_ids[start:stop]), *_media_parts(prompt.media, start, stop)]
        name = hashlib.blake2b(" ".join(parts).encode(), digest_size=16).hexdigest()
        names.append(name)
    return tuple(names)


def _media_parts(media: tuple[MediaSpan, ...], start: int, stop: int) -> Iterator[str]:
    for span in media:
        if span.offset < stop and start < span.offset + span.length:
            yield f"{span.content_hash}:{span.length}:{span.offset - start}"
