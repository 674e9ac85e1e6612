"""What of a traced prompt is text: traces count images as their own model made tokens of them."""

import numpy as np
from numpy.typing import NDArray

from orchestrator.simulator.workload import Workload

TEXT_AT_LEAST = 16
"""Text tokens of a prompt with images at least: a question has a few words."""


def text_tokens(work: Workload, image_tokens: int) -> NDArray[np.int64]:
    """Return the text tokens of each prompt, int64, shape [requests].

    What is left of a traced prompt without `image_tokens` for each of its images.
    """
    images = work.images.astype(np.int64)
    least = np.where(images > 0, TEXT_AT_LEAST, 1)
    text: NDArray[np.int64] = np.maximum(work.context_tokens.astype(np.int64) - images * image_tokens, least)
    return text
