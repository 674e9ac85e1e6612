"""One request at work in an engine."""

import asyncio
import time
from enum import Enum, auto

from stages.emulator.chat import Work
from stages.emulator.continuation import Continuation, absorb
from stages.emulator.errors import EngineError
from stages.emulator.media import Medium
from stages.emulator.transfer import Json
from stages.emulator.vocabulary import IM_END, TextStream, detokenize, unfinished_end
from stages.stop import StopText


class Phase(Enum):
    """Where a request is."""

    WAITING = auto()
    FETCHING = auto()
    ENCODING = auto()
    PREFILLING = auto()
    DECODING = auto()
    HANDING = auto()
    DONE = auto()


class Sequence:
    """A request, its blocks, and what it has said so far.

    Args:
        request_id: The engine's own.
        work: What is asked.
        eos_every: See `EmulatorConfig`.
        drift: Another number gives another answer.

    Attributes:
        images: Media still to be encoded here.
        contents: Of the media, by whose embeddings it answers.
        computed: Tokens whose keys and values are in the blocks.
        digest: Of the prompt; 0 before its media are known.
        finish: Why it ended, in vLLM's words; None while it goes on.
        stop_reason: The stop string that ended it.
        kv_params: What a decode engine is to be told; likewise `ec_params` a prefill engine.
        error: Why it failed.
        fetched: Whether the KV cache of its prompt came from another engine.
        arrived_s: Monotonic second; likewise `admitted_s`, `first_s` and `last_s`, of tokens. 0.0 before.
    """

    __slots__ = (
        "_changed",
        "_drift",
        "_eos_every",
        "_speaker",
        "_text",
        "_unsaid",
        "admitted_s",
        "arrived_s",
        "blocks",
        "computed",
        "contents",
        "digest",
        "ec_params",
        "error",
        "fetched",
        "finish",
        "first_s",
        "images",
        "kv_params",
        "last_s",
        "phase",
        "request_id",
        "stop_reason",
        "tokens",
        "work",
    )

    def __init__(self, request_id: str, work: Work, eos_every: int, drift: int = 0) -> None:
        self.request_id = request_id
        self.work = work
        self.phase = Phase.WAITING
        self.images: list[Medium] = []
        self.contents = [medium.content for medium in work.media]
        self.computed = 0
        self.digest = 0
        self.blocks: list[int] = []
        self.tokens: list[int] = []
        self.finish: str | None = None
        self.stop_reason: str | None = None
        self.kv_params: Json | None = None
        self.ec_params: Json | None = None
        self.error: EngineError | None = None
        self.fetched = False
        self.arrived_s = time.monotonic()
        self.admitted_s = self.first_s = self.last_s = 0.0
        self._drift = drift
        self._eos_every = 0 if work.ignore_eos else eos_every
        self._speaker: Continuation | None = None
        self._text = StopText(detokenize, work.stop) if work.stop else TextStream(unfinished_end(work.prompt))
        self._unsaid = ""
        self._changed = asyncio.Event()

    @property
    def length(self) -> int:
        """Tokens of the prompt and of what has been said."""
        return len(self.work.prompt) + len(self.tokens)

    @property
    def over(self) -> bool:
        """Whether nothing follows."""
        return self.phase is Phase.DONE

    def speak(self) -> None:
        """Say one more token, which may be the last: then `finish` is set."""
        if self._speaker is None:
            digest = absorb(self.digest, (self._drift,)) if self._drift else self.digest
            self._speaker = Continuation(digest, self.work.prompt[-3:], self._eos_every)
        token = self._speaker.next(may_end=len(self.tokens) >= self.work.min_tokens)
        self.tokens.append(token)
        if token == IM_END:
            self.finish = "stop"
        else:
            self._unsaid += self._text.push((token,))
        if self._text.stopped:
            self.finish, self.stop_reason = "stop", self._stop_string()
        elif self.finish is None and len(self.tokens) >= self.work.max_tokens:
            self.finish = "length"
        if self.finish:
            self._unsaid += self._text.finish().rstrip("\ufffd")
        self._changed.set()

    def end(self, error: EngineError | None = None) -> None:
        """Say no more."""
        self.phase = Phase.DONE
        self.error = error
        self._changed.set()

    def take_text(self) -> str:
        """Return the text since the last time."""
        text, self._unsaid = self._unsaid, ""
        return text

    async def changed(self) -> None:
        """Wait until there is more to say, or nothing more.

        Raises:
            EngineError: It failed.
        """
        if not self.over:
            await self._changed.wait()
            self._changed.clear()
        if self.error:
            raise self.error

    async def ended(self) -> None:
        """Wait until nothing follows.

        Raises:
            EngineError: It failed.
        """
        while not self.over:
            await self.changed()
        if self.error:
            raise self.error

    def _stop_string(self) -> str:
        said = detokenize(self.tokens)
        return min((stop for stop in self.work.stop if stop in said), key=said.index)
