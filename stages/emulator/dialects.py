"""How the questions of a path are read and its answers written: vLLM's chats and tokens, SGLang's chats."""

from typing import TYPE_CHECKING, Protocol, TypeVar
from uuid import uuid4

import msgspec

from stages.emulator.answers import Events, whole_answer
from stages.emulator.chat import ChatBody, Work, read_chat, work_of
from stages.emulator.config import EmulatorConfig
from stages.emulator.errors import EngineError
from stages.emulator.media import MediaCache
from stages.emulator.sequence import Sequence
from stages.emulator.sglang_answers import SglangEvents, sglang_answer, sglang_error
from stages.emulator.sglang_chat import SglangBody, read_sglang, sglang_work
from stages.emulator.token_answers import TokenEvents, whole_tokens
from stages.emulator.tokens import TokensBody, read_tokens, work_behind

if TYPE_CHECKING:
    from stages.emulator.sglang_language import Encoders


class Streamable(Protocol):
    """A body that may ask for a stream."""

    @property
    def stream(self) -> bool | None:
        """Whether it does."""


class Saying(Protocol):
    """The events of one answer."""

    def first(self) -> bytes:
        """Return what opens the answer."""

    def more(self) -> bytes:
        """Return the event that says all that was not said yet; empty if there is nothing."""

    def last(self) -> bytes:
        """Return what follows the answer."""


BodyT = TypeVar("BodyT", bound=Streamable)


class Dialect(Protocol[BodyT]):
    """The words of one path."""

    def name(self, body: BodyT, header: str | None) -> str:
        """Return the engine's id of a request; `header` is its x-request-id."""

    def read(self, data: bytes) -> BodyT:
        """Return a request's body, or raise EngineError."""

    def work(self, body: BodyT, config: EmulatorConfig, media: MediaCache) -> Work:
        """Return what an engine is to do for it, or raise EngineError."""

    async def prepared(self, name: str, body: BodyT, work: Work) -> Work:
        """Return work once what other engines do for it is done, or raise EngineError."""

    def events(self, sequence: Sequence, body: BodyT, config: EmulatorConfig) -> Saying:
        """Return what writes the answer as it comes."""

    def whole(self, sequence: Sequence, body: BodyT, config: EmulatorConfig) -> bytes:
        """Return the answer in one piece."""

    def error(self, error: EngineError) -> bytes:
        """Return an error's body, instead of an answer."""


class Chats:
    """`/v1/chat/completions`."""

    def name(self, body: ChatBody, header: str | None) -> str:
        """See `Dialect`."""
        return f"chatcmpl-{header or uuid4().hex}"

    def read(self, data: bytes) -> ChatBody:
        """See `Dialect`."""
        return read_chat(data)

    def work(self, body: ChatBody, config: EmulatorConfig, media: MediaCache) -> Work:
        """See `Dialect`."""
        return work_of(body, config, media)

    async def prepared(self, name: str, body: ChatBody, work: Work) -> Work:
        """See `Dialect`."""
        return work

    def events(self, sequence: Sequence, body: ChatBody, config: EmulatorConfig) -> Saying:
        """See `Dialect`."""
        return Events(sequence, body, config.model, config.release)

    def whole(self, sequence: Sequence, body: ChatBody, config: EmulatorConfig) -> bytes:
        """See `Dialect`."""
        return whole_answer(sequence, body, config.model, config.release)

    def error(self, error: EngineError) -> bytes:
        """See `Dialect`."""
        return error.body()


class Tokens:
    """`/inference/v1/generate`."""

    def name(self, body: TokensBody, header: str | None) -> str:
        """See `Dialect`."""
        return f"generate-tokens-{header or uuid4().hex}"

    def read(self, data: bytes) -> TokensBody:
        """See `Dialect`."""
        return read_tokens(data)

    def work(self, body: TokensBody, config: EmulatorConfig, media: MediaCache) -> Work:
        """See `Dialect`."""
        return work_behind(body, config)

    async def prepared(self, name: str, body: TokensBody, work: Work) -> Work:
        """See `Dialect`."""
        return work

    def events(self, sequence: Sequence, body: TokensBody, config: EmulatorConfig) -> Saying:
        """See `Dialect`."""
        return TokenEvents(sequence, body)

    def whole(self, sequence: Sequence, body: TokensBody, config: EmulatorConfig) -> bytes:
        """See `Dialect`."""
        return whole_tokens(sequence, body, config.model)

    def error(self, error: EngineError) -> bytes:
        """See `Dialect`."""
        return error.body()


class SglangChats:
    """`/v1/chat/completions` of SGLang; `encoders` are those that it has media encoded by."""

    def __init__(self, encoders: "Encoders | None" = None) -> None:
        self._encoders = encoders

    def name(self, body: SglangBody, header: str | None) -> str:
        """See `Dialect`."""
        return body.rid or uuid4().hex

    def read(self, data: bytes) -> SglangBody:
        """See `Dialect`."""
        return read_sglang(data)

    def work(self, body: SglangBody, config: EmulatorConfig, media: MediaCache) -> Work:
        """See `Dialect`."""
        return sglang_work(body, config, media)

    async def prepared(self, name: str, body: SglangBody, work: Work) -> Work:
        """See `Dialect`."""
        return await self._encoders.encoded(name, body.messages, work) if self._encoders else work

    def events(self, sequence: Sequence, body: SglangBody, config: EmulatorConfig) -> Saying:
        """See `Dialect`."""
        return SglangEvents(sequence, body, config.model)

    def whole(self, sequence: Sequence, body: SglangBody, config: EmulatorConfig) -> bytes:
        """See `Dialect`."""
        return sglang_answer(sequence, config.model)

    def error(self, error: EngineError) -> bytes:
        """See `Dialect`: an error stands alone in SGLang's body, and in a field of its events."""
        return msgspec.json.encode(sglang_error(error))
