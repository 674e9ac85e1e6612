"""Decode by a server that writes the answer itself: its events are passed on, each token once."""

from abc import abstractmethod
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import aiohttp
import msgspec

from stages.adapters.bodies import Json, chat_body
from stages.adapters.calls import CHAT
from stages.adapters.engine import ServerEngine
from stages.adapters.events import Chunks, EventReader, Piece, Reader
from stages.engines import Emit, EngineRefused
from stages.types import DecodeJob, FinishReason

Opened = AbstractAsyncContextManager[aiohttp.ClientResponse]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a server is asked.

    Attributes:
        body: JSON, of the request to `path`.
        read: What reads the answer.
        said: Tokens that the client has and the answer begins with.
    """

    path: str = CHAT
    body: bytes
    read: Reader
    said: tuple[int, ...] = ()


class ServedDecode(ServerEngine):
    """`DecodeEngine` by a server."""

    @abstractmethod
    def asked(self, job: DecodeJob, client: Json) -> Json:
        """Return the body that the server is sent for a client's."""

    @abstractmethod
    def reader(self, client: Json) -> Reader:
        """Return what reads the server's answer to a client's body."""

    def resumed(self, job: DecodeJob, client: Json) -> Question | None:
        """Return what makes the server go on where a lost answer broke off; None if it has to start over."""
        return None

    @abstractmethod
    async def text(self, job: DecodeJob, tokens: tuple[int, ...]) -> str:
        """Return the text of tokens."""

    def decode(self, job: DecodeJob, emit: Emit) -> FinishReason:
        """Have the answer written, and emit it as the server writes it.

        Raises:
            AnswerDiverged: It starts over and says something else than the client was sent.
            EngineRefused: It gave up; what was made for it may be gone.
        """
        assert job.chat
        client = chat_body(job.chat, self._blobs)
        question = self.resumed(job, client) if job.generated else None
        if question is None:
            body = msgspec.json.encode(self.asked(job, client))
            question = Question(body=body, read=self.reader(client), said=job.generated)
        chunks = Chunks(len(job.generated), question.said)
        if client.get("stream"):
            self._calls.run(job, lambda: self._stream(job, question, chunks, emit))
        else:
            whole = self._calls.run(job, lambda: self._whole(job, question))
            chunks.add(question.read(whole, whole))
        last = chunks.end()
        if last.finish is None:
            raise EngineRefused("the answer ended without a finish reason")
        emit(last)
        return last.finish

    def opened(self, job: DecodeJob, question: Question) -> Opened:
        """Return what asks the server and has its answer, still to be read; see `Calls.open`."""
        return self._calls.open(question.path, question.body, job.request_id)

    async def _whole(self, job: DecodeJob, question: Question) -> bytes:
        async with self.opened(job, question) as response:
            return await response.read()

    async def _stream(self, job: DecodeJob, question: Question, chunks: Chunks, emit: Emit) -> None:
        events = EventReader(question.read)
        async with self.opened(job, question) as response:
            async for data in response.content.iter_any():
                for event in events.feed(data):
                    chunks.add(await self._unsaid(job, event, chunks.straddles(event)))
                if chunk := chunks.take():
                    emit(chunk)
                if events.done:
                    return
                await self._calls.go_on(job)
        if not chunks.finished:
            raise EngineRefused("the connection was closed in the midst of an answer")

    async def _unsaid(self, job: DecodeJob, event: Piece, known: int) -> Piece:
        """Return an event without the text of its first `known` tokens, which the client has."""
        if not known:
            return event
        before = await self.text(job, job.generated[:-known])
        said = await self.text(job, job.generated)
        return event.without(said[len(before) :])
