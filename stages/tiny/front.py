"""What the gateway knows of `tiny`: its chat template, its words and its sizes."""

from collections.abc import Sequence

from stages.front import Turn
from stages.tiny.vocab import BOS, EOS, IMG, WORDS, join_words, split_words, word_ids
from stages.types import MediaSpan, Modality, Prompt

TOKENS_PER_FRAME = 9


class TinyFront:
    """`TextFront` of `tiny`.

    The prompt is one block of placeholders per media item, in the order of the conversation, then
    the words of the last user turn, then `<bos>`. System messages, within the context's length, and
    assistant and earlier user turns are accepted and ignored: the model was trained on single questions.
    """

    name = "tiny"
    modalities = frozenset({Modality.TEXT, Modality.IMAGE, Modality.VIDEO})
    max_context = 1024
    # 3 layers × (key and value) × 128 × 4 bytes of float32.
    kv_bytes_per_token = 3 * 2 * 128 * 4
    eos_token = EOS
    default_max_tokens = 32
    words = WORDS

    def media_tokens(self, modality: Modality, width_px: int, height_px: int, frames: int) -> int:
        """Return nine tokens a frame: every frame is resized to 48×48 pixels."""
        return TOKENS_PER_FRAME * frames

    def prompt(
        self, turns: Sequence[Turn], media_hashes: Sequence[str], media_tokens: Sequence[int]
    ) -> Prompt:
        """Lay out all media and the last user turn.

        Raises:
            UnknownWord: That turn has words outside `vocab.WORDS`.
            ValueError: A system message alone would not fit into the context.
        """
        self._check_system(turns)
        question = next((turn.text for turn in reversed(turns) if turn.role == "user"), "")
        words = word_ids(split_words(question))
        spans: list[MediaSpan] = []
        offset = 0
        for index in (index for turn in turns for index in turn.media):
            length = media_tokens[index]
            spans.append(MediaSpan(offset=offset, length=length, content_hash=media_hashes[index]))
            offset += length
        return Prompt(token_ids=(*[IMG] * offset, *words, BOS), media=tuple(spans))

    def _check_system(self, turns: Sequence[Turn]) -> None:
        for turn in turns:
            words = len(split_words(turn.text)) if turn.role == "system" else 0
            if words > self.max_context:
                raise ValueError(f"a system message of {words} words; the context holds {self.max_context}")

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the words joined by spaces; `,` and `.` are words of their own."""
        return join_words(tokens)
