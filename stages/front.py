"""What the gateway knows of a model without loading its weights: text in, text out, sizes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from stages.types import Modality, Prompt


class ModelUnavailable(RuntimeError):
    """A model lacks something on this machine; the message says how to get it."""


class UnknownWord(ValueError):
    """A prompt has words that a closed-vocabulary model cannot read.

    Attributes:
        words: The words, in order of appearance.
    """

    def __init__(self, words: Sequence[str], hint: str) -> None:
        super().__init__(f"unknown words: {', '.join(words)}; {hint}")
        self.words = tuple(words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One chat message: its role, its text with media taken out, and the indices of its media."""

    role: str
    text: str
    media: tuple[int, ...] = ()


class ModelFront(Protocol):
    """Sizes of one model, and of what is asked of it.

    Attributes:
        name: As clients name it.
        modalities: What its encoder reads besides text.
        max_context: Positions at most, prompt and completion together.
        kv_bytes_per_token: Bytes of KV cache per position.
            default_max_tokens: Completion tokens when the client names no limit.
    """

    name: str
    modalities: frozenset[Modality]
    max_context: int
    kv_bytes_per_token: int
    default_max_tokens: int

    def media_tokens(self, modality: Modality, width_px: int, height_px: int, frames: int) -> int:
        """Return the embedding rows of a media item of this size, before decoding any pixel."""

    def prompt(
        self, turns: Sequence[Turn], media_hashes: Sequence[str], media_tokens: Sequence[int]
    ) -> Prompt:
        """Lay out the conversation as token ids with placeholders for the media.

        Raises:
            UnknownWord: The text has words outside a closed vocabulary.
        """


class TextFront(ModelFront, Protocol):
    """Tokenizer and chat template besides, of a model whose engines take and give tokens.

    Attributes:
        eos_token: Id that ends a completion.
    """

    eos_token: int

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text of a whole completion. May end in U+FFFD while a character is incomplete.

        Text only grows: detokenize(t[:k]) without trailing U+FFFD is a prefix of detokenize(t).
        """
