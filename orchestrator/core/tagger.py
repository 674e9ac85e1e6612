"""tag(): what work a request brings to each stage, before any pixel is decoded."""

from collections.abc import Sequence

from orchestrator.core.types import MediaShape, Split, StageTag
from stages.types import Modality

_ALL_APART = Split()


def tag(
    text_tokens: int,
    items: Sequence[MediaShape],
    *,
    kappa: int,
    max_tokens: int,
    split: Split = _ALL_APART,
) -> StageTag:
    """Return the modalities of a request and its work per stage.

    Args:
        text_tokens: Prompt tokens without media placeholders, ≥ 0.
        items: Media in the order of the prompt; `tokens` of each come from the model's front.
        kappa: 1 if media tokens also load prefill (decoder-only models), 0 if not.
        max_tokens: Completion tokens at most, ≥ 1.
        split: Which stages it passes.
    """
    item_tokens = tuple([item.tokens for item in items])
    media_tokens = sum(item_tokens)
    return StageTag(
        modalities=frozenset([Modality.TEXT, *[item.modality for item in items]]),
        stages=split.stages(media_tokens, text_tokens + media_tokens),
        item_tokens=item_tokens,
        prefill_tokens=text_tokens + kappa * media_tokens,
        context_tokens=text_tokens + media_tokens,
        output_tokens=max_tokens,
    )
