"""What the front and the vision encoder share: the tokenizer, and the length of an image."""

from pathlib import Path
from typing import TYPE_CHECKING

from stages.smollm2.cache import TOKENIZER_FILE

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SOFT_TOKENS = 6
"""Embedding rows of an image or a video frame, whatever its size."""


def load_tokenizer(directory: Path) -> "Tokenizer":
    """Return SmolLM2's tokenizer, which reads control tokens such as <|im_end|> as ordinary text.

    A client's text must not be able to end its turn and open one of another role.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(directory / TOKENIZER_FILE))
    tokenizer.encode_special_tokens = True
    return tokenizer
