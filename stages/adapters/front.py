"""What the gateway knows of a model whose engines read chats themselves: estimates."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from stages.front import Turn
from stages.types import MediaSpan, Modality, Prompt

BYTES_PER_TOKEN = 4
"""Of English text in the vocabularies of current models; OpenAI's rule of thumb."""

_TURN_TOKENS = 4
"""What a chat template puts around a message."""


@dataclass(slots=True, kw_only=True)
class ServedFront:
    """`ModelFront` of a model behind engine servers.

    A token here is four bytes of text, named by their checksum: so lengths are estimates, and prompts that
    begin alike have tokens that begin alike, which is what routing by prefix compares.

    Attributes:
        image_tokens: Of one image, or one frame of a video.
    """

    name: str
    modalities: frozenset[Modality]
    max_context: int
    kv_bytes_per_token: int
    image_tokens: int
    default_max_tokens: int = 1024

    def media_tokens(self, modality: Modality, width_px: int, height_px: int, frames: int) -> int:
        """Return the profile's tokens for each image or frame, whatever its size."""
        return self.image_tokens * max(1, frames)

    def prompt(
        self, turns: Sequence[Turn], media_hashes: Sequence[str], media_tokens: Sequence[int]
    ) -> Prompt:
        """Return each turn's media and then its text, in about as many tokens as it will have."""
        ids: list[int] = []
        spans: list[MediaSpan] = []
        for turn in turns:
            for index in turn.media:
                length = media_tokens[index]
                spans.append(MediaSpan(offset=len(ids), length=length, content_hash=media_hashes[index]))
                ids += [0] * length
            ids += _estimated(turn)
        return Prompt(token_ids=tuple(ids), media=tuple(spans))


def _estimated(turn: Turn) -> list[int]:
    text = turn.text.encode()
    pieces = (text[at : at + BYTES_PER_TOKEN] for at in range(0, len(text), BYTES_PER_TOKEN))
    return [zlib.crc32(turn.role.encode())] * _TURN_TOKENS + [zlib.crc32(piece) for piece in pieces]
