"""Requests for pressure tests: images, words and completions of wanted sizes, none like another."""

import base64
import io
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from cli.pressure.sse import chat_request

_WORDS = ("red", "blue", "one", "six", "two", "green", "five", "is")
_ENDLESS = " circles"
"""Behind many words of this kind, `tiny` goes on until it is stopped."""
ENDLESS_WORDS = 40
"""That many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a request asks for.

    Attributes:
        words: Of text, before those that keep the completion going.
        output_tokens: Of the completion, at most.
        endless: Words that keep the completion going, if it is to have more than one token.
    """

    images: int
    words: int
    output_tokens: int
    endless: int = ENDLESS_WORDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Requests of several shapes; each size is drawn uniformly between its bounds.

    Attributes:
        image_shares: Probability of 0, 1, 2, … images.
    """

    image_shares: tuple[float, ...] = (0.4, 0.45, 0.15)
    words: tuple[int, int] = (4, 64)
    output_tokens: tuple[int, int] = (4, 48)

    def draw(self, rng: random.Random) -> Shape:
        """Return a shape."""
        return Shape(
            images=rng.choices(range(len(self.image_shares)), self.image_shares)[0],
            words=rng.randint(*self.words),
            output_tokens=rng.randint(*self.output_tokens),
        )


def body(model: str, shape: Shape, rng: random.Random, image_px: int) -> bytes:
    """Return the HTTP request of a streamed chat completion, with images and text that nobody has sent."""
    text = " ".join(rng.choices(_WORDS, k=shape.words)) + _ENDLESS * (
        shape.endless if shape.output_tokens > 1 else 0
    )
    content = [{"type": "text", "text": text}, *(_image(rng, image_px) for _ in range(shape.images))]
    fields = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": shape.output_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return chat_request(json.dumps(fields).encode())


def bodies(model: str, shapes: Sequence[Shape], seed: int, image_px: int) -> list[bytes]:
    """Return a request for each shape."""
    rng = random.Random(seed)
    return [body(model, shape, rng, image_px) for shape in shapes]


def _image(rng: random.Random, px: int) -> dict[str, object]:
    """Return a picture of 8 × 8 random colours; as PNG it is as long as a photograph so small."""
    out = io.BytesIO()
    Image.frombytes("RGB", (8, 8), rng.randbytes(192)).resize((px, px), Image.Resampling.BILINEAR).save(
        out, "PNG"
    )
    url = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": url}}
