"""How the questions of a path are read and its answers written: chats, and tokens."""

from typing import Protocol, TypeVar

from stages.emulator.answers import Events, whole_answer
from stages.emulator.chat import ChatBody, Work, read_chat, work_of
from stages.emulator.config import EmulatorConfig
from stages.emulator.media import MediaCache
from stages.emulator.sequence import Sequence
from stages.emulator.token_answers import TokenEvents, whole_tokens
from stages.emulator.tokens import TokensBody, read_tokens, work_behind


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
    """The words of one path.

    Attributes:
        names: What the engine's ids of its requests begin with.
    """

    names: str

    def read(self, data: bytes) -> BodyT:
        """Return a request's body, or raise EngineError."""

    def work(self, body: BodyT, config: EmulatorConfig, media: MediaCache) -> Work:
        """Return what an engine is to do for it, or raise EngineError."""

    def events(self, sequence: Sequence, body: BodyT, config: EmulatorConfig) -> Saying:
        """Return what writes the answer as it comes."""

    def whole(self, sequence: Sequence, body: BodyT, config: EmulatorConfig) -> bytes:
        """Return the answer in one piece."""


class Chats:
    """`/v1/chat/completions`."""

    names = "chatcmpl"

    def read(self, data: bytes) -> ChatBody:
        """See `Dialect`."""
        return read_chat(data)

    def work(self, body: ChatBody, config: EmulatorConfig, media: MediaCache) -> Work:
        """See `Dialect`."""
        return work_of(body, config, media)

    def events(self, sequence: Sequence, body: ChatBody, config: EmulatorConfig) -> Saying:
        """See `Dialect`."""
        return Events(sequence, body, config.model, config.version)

    def whole(self, sequence: Sequence, body: ChatBody, config: EmulatorConfig) -> bytes:
        """See `Dialect`."""
        return whole_answer(sequence, body, config.model, config.version)


class Tokens:
    """`/inference/v1/generate`."""

    names = "generate-tokens"

    def read(self, data: bytes) -> TokensBody:
        """See `Dialect`."""
        return read_tokens(data)

    def work(self, body: TokensBody, config: EmulatorConfig, media: MediaCache) -> Work:
        """See `Dialect`."""
        return work_behind(body, config)

    def events(self, sequence: Sequence, body: TokensBody, config: EmulatorConfig) -> Saying:
        """See `Dialect`."""
        return TokenEvents(sequence, body)

    def whole(self, sequence: Sequence, body: TokensBody, config: EmulatorConfig) -> bytes:
        """See `Dialect`."""
        return whole_tokens(sequence, body, config.model)
