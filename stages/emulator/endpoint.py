"""One request for an answer, from its body to the last byte."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Generic

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from stages.emulator.answers import DONE
from stages.emulator.dialects import BodyT, Dialect
from stages.emulator.engine import Engine
from stages.emulator.errors import EngineError
from stages.emulator.faults import FaultBoard
from stages.emulator.sequence import Sequence

_JSON = (b"content-type", b"application/json")
_EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
_NEVER_SENT_BYTES = 1 << 20


class AnswerEndpoint(Generic[BodyT]):
    """An ASGI application: as bare as can be, since it runs once a token."""

    def __init__(self, engine: Engine, board: FaultBoard, dialect: Dialect[BodyT]) -> None:
        self._engine = engine
        self._board = board
        self._dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; stop and free what it holds as soon as its client has gone."""
        request = Request(scope, receive)
        try:
            data = await request.body()
        except ClientDisconnect:
            return
        await _unless_gone(receive, self._answer(request.headers.get("x-request-id"), data, send))

    async def _answer(self, name: str | None, data: bytes, send: Send) -> None:
        try:
            await self._suffer()
            body = self._dialect.read(data)
            work = self._dialect.work(body, self._engine.config, self._engine.media)
            name = self._dialect.name(body, name)
            sequence = self._engine.submit(name, await self._dialect.prepared(name, body, work))
            try:
                await (self._stream if body.stream else self._whole)(sequence, body, send)
            finally:
                self._engine.abort(sequence)
        except EngineError as error:
            await _send_whole(send, error.status, self._dialect.error(error))

    async def _suffer(self) -> None:
        """Let a request meet the faults that hit it before the engine does.

        Raises:
            EngineError: It fails.
        """
        if self._board.faults.hang:
            await asyncio.Event().wait()
        if self._board.strikes():
            status = self._board.faults.error_status
            raise EngineError("Injected fault", status, "InternalServerError")

    async def _whole(self, sequence: Sequence, body: BodyT, send: Send) -> None:
        breaks_at = self._board.faults.drop_after
        if breaks_at is not None:
            while not sequence.over and len(sequence.tokens) < breaks_at:
                await sequence.changed()
            await _send_head(send, 200, _JSON, (b"content-length", str(_NEVER_SENT_BYTES).encode()))
            await send({"type": "http.response.body", "body": b'{"id":', "more_body": True})
            return
        await sequence.ended()
        await _send_whole(send, 200, self._dialect.whole(sequence, body, self._engine.config))

    async def _stream(self, sequence: Sequence, body: BodyT, send: Send) -> None:
        """Send events as tokens come; those that came while one was sent go into the next."""
        breaks_at = self._board.faults.drop_after
        events = self._dialect.events(sequence, body, self._engine.config)
        await _send_head(send, 200, _EVENTS)
        try:
            await sequence.changed()
            if opening := events.first():
                await _send_part(send, opening)
            while breaks_at is None or len(sequence.tokens) < breaks_at:
                if event := events.more():
                    await _send_part(send, event)
                if sequence.over:
                    await _send_part(send, events.last(), more=False)
                    return
                await sequence.changed()
        except EngineError as error:
            # A stream has begun as soon as it is asked for: what goes wrong becomes an event.
            await _send_part(send, b"data: " + error.body() + b"\n\n" + DONE, more=False)


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Do work; cancel it if the client closes its connection."""
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_until_gone(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
    finally:
        watching.cancel()
        working.cancel()
    try:
        await working
    except asyncio.CancelledError:
        if not watching.done():
            raise


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_head(send: Send, status: int, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})


async def _send_part(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _send_whole(send: Send, status: int, body: bytes) -> None:
    await _send_head(send, status, _JSON, (b"content-length", str(len(body)).encode()))
    await _send_part(send, body, more=False)
