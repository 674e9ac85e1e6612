"""Images and request bodies for the load generators."""

import base64
import json
import random
from collections.abc import Iterable
from io import BytesIO
from typing import Any

from PIL import Image


def png(width_px: int, height_px: int, seed: int) -> bytes:
    """Return a small PNG of one random colour, another for each seed."""
    rng = random.Random(seed)
    out = BytesIO()
    Image.new("RGB", (width_px, height_px), tuple(rng.randrange(256) for _ in range(3))).save(out, "PNG")
    return out.getvalue()


def digit(index: int) -> bytes:
    """Return a held-out digit that `tiny` can read, as PNG."""
    from stages.tiny.data import heldout_digit

    rgb, _ = heldout_digit(index, 96)
    out = BytesIO()
    Image.fromarray(rgb).save(out, "PNG")
    return out.getvalue()


def words(tokens: int, model: str = "tiny", **fields: Any) -> bytes:
    """Return the body of a chat completion of so many tokens about fifty words."""
    messages = [{"role": "user", "content": "what is there to say of it " * 7}]
    asked = {"model": model, "messages": messages, "max_tokens": tokens, "temperature": 0}
    return json.dumps(asked | fields).encode()


def question(model: str, text: str, image: bytes, **fields: Any) -> bytes:
    """Return the body of a chat completion about one image."""
    return chat(model, text, [image], **fields)


def chat(model: str, text: str, images: Iterable[bytes], **fields: Any) -> bytes:
    """Return the body of a chat completion about PNGs."""
    content = [{"type": "text", "text": text}, *map(_picture, images)]
    return json.dumps({"model": model, "messages": [{"role": "user", "content": content}], **fields}).encode()


def _picture(image: bytes) -> dict[str, Any]:
    url = "data:image/png;base64," + base64.b64encode(image).decode()
    return {"type": "image_url", "image_url": {"url": url}}
