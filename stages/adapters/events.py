"""What a server says while it decodes: events or a body, with the ids of their tokens if it says them."""

import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from stages.engines import AnswerDiverged, EngineRefused
from stages.types import FinishReason, TokenChunk

_END = b"\n\n"
_DONE = b"data: [DONE]"
_DATA = b"data: "

# A quote inside a JSON string has a backslash before it, so these match keys alone.
_TOKEN_IDS = re.compile(rb',"(?:prompt_)?token_ids":(?:null|\[[^]]*\])')

_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH, "tool_calls": FinishReason.TOOL_CALLS}
_FAILED = ("abort", "error")
"""Finish reasons of a server that gave a request up."""


class _Choice(msgspec.Struct):
    token_ids: list[int] | None = None
    delta: dict[str, Any] = {}
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    completion_tokens: int = 0


class _Answer(msgspec.Struct):
    choices: list[_Choice] = []
    error: Any = None
    usage: _Usage | None = None


_decode = msgspec.json.Decoder(_Answer).decode


@dataclass(frozen=True, slots=True)
class Piece:
    """One event, or one body.

    Attributes:
        raw: As the client is to have it.
        tokens: Ids of the tokens that it says.
        finish: Set on the one that ends the answer.
    """

    raw: bytes
    tokens: tuple[int, ...]
    finish: FinishReason | None

    def without(self, text: str) -> "Piece":
        """Return an event whose text lacks its beginning.

        Raises:
            AnswerDiverged: It says that nowhere, or not as plain text.
        """
        event = msgspec.json.decode(self.raw[len(_DATA) : -len(_END)])
        delta = event["choices"][0].get("delta") or {}
        if set(delta) - {"role", "content"} or not str(delta.get("content")).startswith(text):
            raise AnswerDiverged("a second try cannot go on in the midst of what the first one said")
        delta["content"] = delta["content"].removeprefix(text)
        return replace(self, raw=_DATA + msgspec.json.encode(event) + _END)


Reader = Callable[[bytes, bytes], Piece]
"""Makes a piece of an event or a body: as it came, and the JSON in it."""


class EventReader:
    """Splits a stream of bytes into events.

    Args:
        read: Makes pieces of events.

    Attributes:
        done: The server has said that nothing follows.
    """

    def __init__(self, read: Reader) -> None:
        self._read = read
        self._rest = b""
        self.done = False

    def feed(self, data: bytes) -> Iterator[Piece]:
        """Yield the events that are whole now.

        Raises:
            EngineRefused: The server gave the request up.
        """
        *events, self._rest = (self._rest + data).split(_END)
        for event in events:
            if event == _DONE:
                self.done = True
            elif event.startswith(_DATA):
                yield self._read(event + _END, event[len(_DATA) :])


def piece(raw: bytes, json: bytes, *, keep_ids: bool) -> Piece:
    """Return what an event or a body of vLLM says.

    Raises:
        EngineRefused: The server gave the request up.
    """
    choice, finish = _judged(_read(json))
    return Piece(raw if keep_ids else _TOKEN_IDS.sub(b"", raw), tuple(choice.token_ids or ()), finish)


def counted(raw: bytes, json: bytes) -> Piece:
    """Return what an event or a body says that has no ids: an event is one token, known by its words.

    Raises:
        EngineRefused: The server gave the request up.
    """
    answer = _read(json)
    choice, finish = _judged(answer)
    if answer.usage and not choice.delta:  # a body, whose words nobody has yet
        return Piece(raw, (0,) * answer.usage.completion_tokens, finish)
    said = {name: value for name, value in choice.delta.items() if value and name != "role"}
    return Piece(raw, (zlib.crc32(msgspec.json.encode(said)),) if said else (), finish)


def judge(answer: bytes, read: Reader) -> None:
    """Look through a whole answer, a body or events, that nobody needs.

    Raises:
        EngineRefused: The server gave the request up.
    """
    if not list(EventReader(read).feed(answer)):
        read(answer, answer)


def _read(json: bytes) -> _Answer:
    try:
        return _decode(json)
    except msgspec.MsgspecError as error:
        raise EngineRefused(f"the server's answer cannot be read: {error}") from None


def _judged(answer: _Answer) -> tuple[_Choice, FinishReason | None]:
    if answer.error:
        raise EngineRefused(str(answer.error))
    choice = answer.choices[0] if answer.choices else _Choice()
    if choice.finish_reason in _FAILED:
        raise EngineRefused(f"the engine ended the request: {choice.finish_reason}")
    return choice, _REASONS.get(choice.finish_reason, FinishReason.STOP) if choice.finish_reason else None


class Chunks:
    """Puts pieces together into chunks whose tokens are numbered, from the first that the client lacks.

    Every chunk but the last has tokens, so that one that arrives twice can be told by its index: what says
    none is held until the next that does, and all that follows the end until `end`.

    Args:
        index: Of the first token that the client lacks.
        said: Tokens that the client has and the server is to say again; they are dropped.
    """

    def __init__(self, index: int = 0, said: tuple[int, ...] = ()) -> None:
        self._said = said
        self._again = 0
        self._index = index
        self._tokens: list[int] = []
        self._raw: list[bytes] = []
        self._finish: FinishReason | None = None

    @property
    def finished(self) -> bool:
        """Whether the piece that ends the answer has come."""
        return self._finish is not None

    def straddles(self, piece: Piece) -> int:
        """Return how many of a piece's tokens the client has, if it lacks others of it; else 0."""
        known = len(self._said) - self._again
        return known if 0 < known < len(piece.tokens) else 0

    def add(self, piece: Piece) -> None:
        """Take the next piece.

        Raises:
            AnswerDiverged: It says other tokens than the client was sent.
        """
        known = min(len(piece.tokens), len(self._said) - self._again)
        if piece.tokens[:known] != self._said[self._again : self._again + known]:
            raise AnswerDiverged("a second try gave other tokens; set temperature 0 or a seed")
        repeated = self._again < len(self._said) and known == len(piece.tokens)
        self._again += known
        self._finish = self._finish or piece.finish
        if repeated and not piece.finish:
            return
        self._tokens += piece.tokens[known:]
        self._raw.append(piece.raw)

    def take(self) -> TokenChunk | None:
        """Return what has come since the last chunk, None if that cannot be told by an index yet."""
        return None if self._finish or not self._tokens else self._chunk()

    def end(self) -> TokenChunk:
        """Return the last chunk.

        Raises:
            AnswerDiverged: The answer ended before the client had all that it was sent.
        """
        if self._again < len(self._said):
            raise AnswerDiverged("a second try ended sooner; set temperature 0 or a seed")
        return self._chunk()

    def _chunk(self) -> TokenChunk:
        raw = b"".join(self._raw).decode()
        chunk = TokenChunk(index=self._index, tokens=tuple(self._tokens), finish=self._finish, raw=raw)
        self._index += len(self._tokens)
        self._tokens, self._raw = [], []
        return chunk
