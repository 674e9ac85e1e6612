"""Text to token ids and back: bytes, and up to three letters with or without a space before them.

The vocabulary is arithmetic, so that it takes no memory: ids below 256 are bytes, then come special tokens,
then words in bijective base 26, each without and with the space.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

IM_START, IM_END, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD, AUDIO_PAD = range(256, 263)

_SPECIAL = {
    IM_START: b"<|im_start|>",
    IM_END: b"<|im_end|>",
    VISION_START: b"<|vision_start|>",
    VISION_END: b"<|vision_end|>",
    IMAGE_PAD: b"<|image_pad|>",
    VIDEO_PAD: b"<|video_pad|>",
    AUDIO_PAD: b"<|audio_pad|>",
}
_FIRST_WORD = 272
_LETTERS = 3
_WORDS = sum(26**length for length in range(1, _LETTERS + 1))
VOCABULARY_SIZE = _FIRST_WORD + 2 * _WORDS

_TOKEN = re.compile(rb" ?[a-z]{1,3}|.", re.DOTALL)


def tokenize(text: str) -> list[int]:
    """Return the ids of a text; special tokens are not recognised in it."""
    return [_id_of(piece) for piece in _TOKEN.findall(text.encode("utf-8", "replace"))]


@lru_cache(maxsize=4096)
def token_bytes(token: int) -> bytes:
    """Return the bytes that a token stands for; of a special or unknown one its name."""
    if token < 256:
        return bytes((token,))
    if not _FIRST_WORD <= token < VOCABULARY_SIZE:
        return _SPECIAL.get(token, b"<|%d|>" % token)
    number, spaced = divmod(token - _FIRST_WORD, 2)
    letters = bytearray()
    number += 1
    while number:
        number, letter = divmod(number - 1, 26)
        letters.append(97 + letter)
    return b" " * spaced + bytes(reversed(letters))


def detokenize(tokens: Iterable[int]) -> str:
    """Return the text of tokens; what is no UTF-8 becomes U+FFFD."""
    return b"".join(map(token_bytes, tokens)).decode("utf-8", "replace")


class TextStream:
    """The text of tokens that come one by one: a character appears once it is whole.

    `stages.stop.StopText` without stop strings, at a fraction of its cost.

    Args:
        begun: Bytes before the first token that begin a character.
    """

    __slots__ = ("_rest",)
    stopped = False

    def __init__(self, begun: bytes = b"") -> None:
        self._rest = begun

    def push(self, tokens: Sequence[int]) -> str:
        """Return the text that is whole now and was not before."""
        data = self._rest + b"".join(map(token_bytes, tokens))
        at = len(data) - unfinished_bytes(data)
        self._rest = data[at:]
        return data[:at].decode("utf-8", "replace")

    def finish(self) -> str:
        """Return nothing: an engine does not say half a character."""
        return ""


def unfinished_end(tokens: Sequence[int]) -> bytes:
    """Return the bytes at the end of tokens that begin a character which is not whole; 0 to 3."""
    data = bytes(token if token < 256 else 32 for token in tokens[-3:])
    return data[len(data) - unfinished_bytes(data) :]


def unfinished_bytes(data: bytes) -> int:
    """Return how many bytes at the end begin a character that is not whole; 0 to 3."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if back < length else 0
        if byte < 0x80:
            return 0
    return 0


@lru_cache(maxsize=4096)
def _id_of(piece: bytes) -> int:
    letters = piece.removeprefix(b" ")
    if not letters.islower():
        return piece[0]
    number = 0
    for letter in letters:
        number = number * 26 + letter - 96
    return _FIRST_WORD + 2 * (number - 1) + (len(letters) < len(piece))
