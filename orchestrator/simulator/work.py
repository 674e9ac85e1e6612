"""What the rows of a trace ask of a model: images of one size, and text."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.profile import ModelProfile
from orchestrator.simulator.workload import TRACED_IMAGE_TOKENS, Workload

TEXT_AT_LEAST = 32
"""Text tokens of a prompt with images at least: a question has a few words."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Work:
    """One row a request.

    Attributes:
        images: int64 [requests].
        text_tokens: int64 [requests].
        image_tokens: int64 [requests], of all images of the request; the encoder makes them.
        prompt_tokens: int64 [requests], what prefill reads.
    """

    images: NDArray[np.int64]
    text_tokens: NDArray[np.int64]
    image_tokens: NDArray[np.int64]
    prompt_tokens: NDArray[np.int64]


def work_from_rows(rows: Workload, model: ModelProfile) -> Work:
    """Return what traced requests are to a model.

    The images are those of the row, each of as many tokens as the model makes of one. Text is what the
    traced prompt has beyond `TRACED_IMAGE_TOKENS` for each image, since its images were another model's.
    """
    images = rows.images.astype(np.int64)
    beyond = rows.context_tokens.astype(np.int64) - images * TRACED_IMAGE_TOKENS
    text: NDArray[np.int64] = np.maximum(beyond, np.where(images > 0, TEXT_AT_LEAST, 1))
    tokens = images * model.image_tokens
    return Work(
        images=images,
        text_tokens=text,
        image_tokens=tokens,
        prompt_tokens=text + model.kappa * tokens,
    )
