"""Text of a completion, piece by piece, up to a stop string.

The decode engine uses it to end a generation, the gateway to render tokens: fed with the same tokens,
both see the same end, however the tokens are cut into chunks.
"""

from collections.abc import Callable, Sequence

Detokenize = Callable[[Sequence[int]], str]

_INCOMPLETE = "\ufffd"
_WINDOW_TOKENS = 48
_ANCHOR_TOKENS = 12


class StopText:
    """Turns tokens into text that may be shown: no part of a stop string, no incomplete character.

    Attributes:
        stopped: A stop string has appeared; all later tokens are ignored.
    """

    def __init__(self, detokenize: Detokenize, stop: Sequence[str] = ()) -> None:
        self.stopped = False
        self._stop = tuple(s for s in stop if s)
        self._words = _WindowText(detokenize)
        self._held = ""

    def push(self, tokens: Sequence[int]) -> str:
        """Take the next tokens; return the text that is now certain, often empty."""
        shown: list[str] = []
        for token in tokens:
            if self.stopped:
                break
            shown.append(self._extend(self._words.push(token)))
        return "".join(shown)

    def finish(self) -> str:
        """Return what was held back, once no token follows; empty if a stop string ended the text."""
        if self.stopped:
            return ""
        return self._extend(self._words.rest()) + self._take(len(self._held))

    def _extend(self, new: str) -> str:
        self._held += new
        starts = [at for at in (self._held.find(s) for s in self._stop) if at >= 0]
        if starts:
            self.stopped = True
            shown, self._held = self._held[: min(starts)], ""
            return shown
        return self._take(len(self._held) - self._doubtful())

    def _take(self, count: int) -> str:
        shown, self._held = self._held[:count], self._held[count:]
        return shown

    def _doubtful(self) -> int:
        """Return the length of the longest end of the held text that a stop string starts with."""
        longest = max((len(s) for s in self._stop), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(s.startswith(self._held[-length:]) for s in self._stop):
                return length
        return 0


class _WindowText:
    """New text of each token, at a cost that does not grow with the completion.

    Only a window of the last tokens is detokenized. The window's start moves up when the text of the
    shorter window is the end of the text of the longer one, and begins and ends with whole characters.
    """

    def __init__(self, detokenize: Detokenize) -> None:
        self._detokenize = detokenize
        self._window: list[int] = []
        self._shown = 0  # characters of the window's text already returned
        self._text = ""

    def push(self, token: int) -> str:
        self._window.append(token)
        self._text = self._detokenize(self._window)
        new = self._text.rstrip(_INCOMPLETE)[self._shown :]
        self._shown += len(new)
        if len(self._window) > _WINDOW_TOKENS:
            self._move_up()
        return new

    def rest(self) -> str:
        new = self._text[self._shown :]
        self._shown = len(self._text)
        return new

    def _move_up(self) -> None:
        tail = self._window[-_ANCHOR_TOKENS:]
        text = self._detokenize(tail)
        whole = text and not text.startswith(_INCOMPLETE) and self._shown == len(self._text)
        if whole and self._text.endswith(text):
            self._window, self._text, self._shown = tail, text, len(text)
