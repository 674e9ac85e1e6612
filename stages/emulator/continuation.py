"""What an emulated model says: each token is a function of all that stands before it.

So engines that are given the same prompt say the same, and one that is given a prompt and its first k tokens
goes on with the next, as real ones do at temperature 0.
"""

import zlib
from array import array
from collections.abc import Iterable, Sequence

from stages.emulator.vocabulary import IM_END, tokenize, unfinished_bytes, unfinished_end

_MASK = (1 << 64) - 1
_CHARACTERS = tuple(c.encode() for c in "éüñßøæåçλπя漢字語文한中国東日🙂🚀🌍🎉")
_STARTS = tuple(sorted({character[0] for character in _CHARACTERS}))
_VOWELS = "aeiou"
_CONSONANTS = "bcdfghjklmnprstvwxz"
_SYLLABLES = [c + v for c in _CONSONANTS for v in _VOWELS]
_WORDS = [*_SYLLABLES, *(s + c for s in _SYLLABLES for c in _CONSONANTS)]
_SAID = tuple(tokenize(space + word)[0] for word in _WORDS for space in ("", " "))
_CHARACTER_EVERY = 16


def digest_of(prompt: Sequence[int], media: Iterable[str], temperature: float, seed: int | None) -> int:
    """Return the digest of a prompt with its media, by which the answer is known; 64 bits.

    Args:
        prompt: Token ids, with placeholders.
        media: Content of the media, in order.
        temperature: At 0 the seed does not matter.
        seed: None is 0: an emulated engine repeats itself.
    """
    sampling = f"{temperature}:{seed or 0}" if temperature else ""
    head = "\n".join((sampling, *media)).encode()
    return absorb(_join(zlib.crc32(head), zlib.adler32(head)), prompt)


def absorb(digest: int, tokens: Sequence[int]) -> int:
    """Return the digest of what `digest` stands for and `tokens` behind it."""
    data = array("I", tokens).tobytes()
    return _join(zlib.crc32(data, digest & 0xFFFFFFFF), zlib.adler32(data, digest >> 32))


class Continuation:
    """Says what follows a prompt, token by token.

    Args:
        digest: Of the prompt.
        tail: Its last tokens, which may end within a character; 3 are enough.
        eos_every: One token in so many ends the answer; 0 for none.
    """

    __slots__ = ("_begun", "_digest", "_eos_every")

    def __init__(self, digest: int, tail: Sequence[int], eos_every: int = 0) -> None:
        self._digest = digest
        self._eos_every = eos_every
        self._begun = unfinished_end(tail)

    def next(self, *, may_end: bool = True) -> int:
        """Return the next token; `IM_END`, if it may be, ends the answer."""
        token = self._choose(_mix(self._digest), may_end)
        self._digest = absorb(self._digest, (token,))
        return token

    def _choose(self, chance: int, may_end: bool) -> int:
        if self._begun:
            return self._finish_character(chance)
        if self._eos_every and may_end and (chance >> 40) % self._eos_every == 0:
            return IM_END
        if chance % _CHARACTER_EVERY == 0:
            self._begun = bytes((_STARTS[(chance >> 8) % len(_STARTS)],))
            return self._begun[0]
        return _SAID[(chance >> 8) % len(_SAID)]

    def _finish_character(self, chance: int) -> int:
        """Return the next byte of one of our characters; of a foreign one any that may follow."""
        begun = self._begun
        fitting = [character for character in _CHARACTERS if character.startswith(begun)]
        byte = fitting[chance % len(fitting)][len(begun)] if fitting else 0x90 + chance % 16
        begun += bytes((byte,))
        self._begun = begun if unfinished_bytes(begun) else b""
        return byte


def _join(low: int, high: int) -> int:
    return high << 32 | low


def _mix(digest: int) -> int:
    """Spread a digest over 64 bits; the finaliser of MurmurHash3 and SplitMix64."""
    digest = (digest ^ digest >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    digest = (digest ^ digest >> 27) * 0x94D049BB133111EB & _MASK
    return digest ^ digest >> 31
