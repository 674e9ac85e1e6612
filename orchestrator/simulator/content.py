"""What of a request may have been seen before, and what came of that."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    """What of a request may have been seen before.

    Attributes:
        images: Names its images, equal for equal ones; empty if they do not repeat.
        blocks: Names the blocks of its prompt, first to last; equal leading names mean an equal prefix.
    """

    images: str = ""
    blocks: Sequence[int] = ()

    def image(self, number: int) -> str:
        """Return the name of one image, empty if it does not repeat."""
        return f"{self.images}.{number}" if self.images else ""


NEW = Content()
"""Nothing of it was seen before: a trace that says nothing of contents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hits:
    """What caches supplied, and of how much.

    Attributes:
        image_tokens: Offered.
        cached_image_tokens: Supplied by embedding caches.
        prompt_tokens: Prefilled.
        cached_prompt_tokens: Supplied by prefix caches.
    """

    image_tokens: float
    cached_image_tokens: float
    prompt_tokens: float
    cached_prompt_tokens: float
