"""The closed vocabulary of `tiny`: words to ids and back."""

import re
from collections.abc import Iterable, Sequence

from stages.front import UnknownWord

PAD, BOS, EOS, IMG = range(4)

VOCABULARY = (
    *("<pad>", "<bos>", "<eos>", "<img>"),
    *(",", ".", "?"),
    *("blue", "circle", "circles", "color", "describe", "digit", "eight", "five", "four", "green", "how"),
    *("image", "is", "many", "nine", "one", "red", "seven", "shown", "six", "square", "squares", "the"),
    *("three", "triangle", "triangles", "two", "what", "yellow", "zero"),
)
"""Words by id. A weights file carries the same list and is refused if it differs."""

WORDS = VOCABULARY[IMG + 1 :]
"""What a client may write: everything but the four special tokens."""

HINT = "`tercet models vocab tiny` lists the words that tiny reads"

_ID_OF_WORD = {word: token_id for token_id, word in enumerate(VOCABULARY) if token_id > IMG}
_WORD = re.compile(r"\w+|[^\w\s]")
# What a message quotes of words that it refuses: a body may hold millions of them.
_QUOTED_WORDS = 8
_QUOTED_CHARS = 32


def split_words(text: str) -> list[str]:
    """Return the lower-case words and punctuation marks of `text`, each mark a word of its own."""
    return _WORD.findall(text.lower())


def word_ids(words: Iterable[str]) -> list[int]:
    """Return the ids of `words`.

    Raises:
        UnknownWord: Some are not in the vocabulary; it names the first few, each once.
    """
    words = list(words)
    unknown = dict.fromkeys(word[:_QUOTED_CHARS] for word in words if word not in _ID_OF_WORD)
    if unknown:
        raise UnknownWord(list(unknown)[:_QUOTED_WORDS], HINT)
    return [_ID_OF_WORD[word] for word in words]


def join_words(token_ids: Sequence[int]) -> str:
    """Return the words of `token_ids` with a space between each two; special tokens have no text."""
    return " ".join(VOCABULARY[token_id] for token_id in token_ids if token_id > IMG)
