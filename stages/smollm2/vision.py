"""Images as soft tokens: EfficientNet-Lite0's label probabilities mixed in SmolLM2's embedding space.

ConSE (Norouzi et al., arXiv:1312.5650): an image is the mean of its likeliest labels' word embeddings,
weighted by their probabilities. SmolLM2 was never trained on images, so its own token embeddings are
the only space it reads. What it gets is a label and a doubt, nothing of the picture itself.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.smollm2 import effnet
from stages.smollm2.cache import LABELS_FILE, VISION_FILE
from stages.smollm2.gguf_weights import load_embedding
from stages.smollm2.tokenizer import SOFT_TOKENS, load_tokenizer
from stages.smollm2.torch_file import load_state_dict

Array = NDArray[np.float32]

TOP_LABELS = 10
# Reads well behind "The image is" from each of its words on, so that its end fills the places that a
# short label leaves. Repeating the label's last token instead makes the model stutter ("tripododod").
_LEAD_IN = " now most likely showing a"


def convert_vision(source: Path, path: Path) -> None:
    """Write the weights of a torch checkpoint as `effnet` wants them."""
    arrays: dict[str, Any] = {**effnet.fold(load_state_dict(source))}
    np.savez(path, **arrays)


class LabelMixer:
    """Label probabilities to soft tokens.

    Attributes:
        labels: The label names, in the order of the probabilities.
    """

    def __init__(
        self,
        labels: Sequence[str],
        label_ids: Sequence[Sequence[int]],
        lead_in_ids: Sequence[int],
        embedding: Array,
    ) -> None:
        """Take each label's token ids and the lead-in's, which index `embedding` [vocabulary, dim]."""
        self.labels = labels
        self._label_ids = label_ids
        self._lead_in_ids = lead_in_ids
        self._embedding = embedding

    def mix(self, probabilities: Array) -> Array:
        """Return float32 [SOFT_TOKENS, dim] of label probabilities [labels].

        The label takes the last places, as many as the likeliest label has tokens; place by place,
        the other labels' tokens are mixed in, a shorter one by repeating its last token.
        """
        top = np.argsort(-probabilities, kind="stable")[:TOP_LABELS]
        length = min(len(self._label_ids[top[0]]), SOFT_TOKENS)
        lead_in = self._lead_in_ids[len(self._lead_in_ids) - (SOFT_TOKENS - length) :]
        ids = np.array([_fit(self._label_ids[label], length) for label in top])
        weight = probabilities[top] / probabilities[top].sum(dtype=np.float32)
        mixed = np.tensordot(weight, self._embedding[ids], axes=1)
        return np.concatenate([self._embedding[list(lead_in)], mixed]).astype(np.float32)


def _fit(ids: Sequence[int], length: int) -> list[int]:
    """Cut to the first `length` ids, or repeat the last one up to there."""
    return [*ids[:length], *[ids[-1]] * (length - len(ids))]


class SmolVision:
    """The image encoder. Holds no state besides the weights; safe to call from several threads."""

    def __init__(self, directory: Path) -> None:
        """Load from the directory that `prepare` returns."""
        with np.load(directory / VISION_FILE, allow_pickle=False) as archive:
            self._weights: effnet.Weights = {name: archive[name] for name in archive.files}
        labels = json.loads((directory / LABELS_FILE).read_text(encoding="utf-8"))
        tokenizer = load_tokenizer(directory)
        label_ids = [encoding.ids for encoding in tokenizer.encode_batch([f" {label}" for label in labels])]
        lead_in_ids = tokenizer.encode(_LEAD_IN).ids
        self._mixer = LabelMixer(labels, label_ids, lead_in_ids, load_embedding(directory))

    def encode(self, rgb: NDArray[np.uint8]) -> Array:
        """Return the soft tokens, float32 [6, 576], of an image, uint8 [height, width, 3]."""
        return self._mixer.mix(self._probabilities(rgb))

    def classify(self, rgb: NDArray[np.uint8], count: int) -> list[tuple[str, float]]:
        """Return the likeliest labels with their probabilities, the likeliest first."""
        probabilities = self._probabilities(rgb)
        top = np.argsort(-probabilities, kind="stable")[:count]
        return [(self._mixer.labels[label], float(probabilities[label])) for label in top]

    def _probabilities(self, rgb: NDArray[np.uint8]) -> Array:
        logits = effnet.logits(effnet.preprocess(rgb), self._weights)
        odds = np.exp(logits - logits.max())
        share: Array = odds / odds.sum()
        return share
