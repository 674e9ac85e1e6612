"""How decode engines fetch KV caches from prefill engines: a JSON object a line each way, over TCP.

It stands for NIXL's handshake and transfer. No bytes of a KV cache move: their digest does.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal

import msgspec

from stages.emulator.leases import Leases, Refusal
from stages.emulator.transfer import KvSource

Verb = Literal["pull", "meet", "renew", "release"]

_RETRY_S = 0.05
_LINE_BYTES = 1 << 16


class Ask(msgspec.Struct, frozen=True):
    """What a decode engine wants of a KV cache."""

    verb: Verb
    engine_id: str
    request_id: str


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer: what the KV cache holds, or why it cannot be had."""

    digest: int = 0
    tokens: int = 0
    refused: str = ""


class CannotFetch(Exception):
    """A KV cache cannot be fetched; the message says why."""


_ask = msgspec.json.Decoder(Ask).decode
_told = msgspec.json.Decoder(Told).decode


async def serve_side_channel(leases: Leases, host: str, port: int) -> asyncio.Server:
    """Listen for decode engines.

    Raises:
        OSError: The address cannot be listened on.
    """

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ValueError):
            while line := await reader.readline():
                told = await _unless_closed(reader, _answer(leases, _ask(line)))
                writer.write(msgspec.json.encode(told) + b"\n")
                await writer.drain()
        writer.close()

    return await asyncio.start_server(talk, host, port, limit=_LINE_BYTES)


async def fetch(source: KvSource, timeout_s: float) -> Told:
    """Fetch a KV cache, which the prefill engine then has no more.

    Raises:
        CannotFetch: It is not there, or nobody answers within the time.
    """
    told = await _spoken(source, "meet" if source.coming else "pull", timeout_s)
    if told.refused:
        raise CannotFetch(f"{source.request_id}: {told.refused}")
    return told


async def keep(source: KvSource, timeout_s: float) -> None:
    """Tell a prefill engine that its KV cache is still wanted; whether it hears that or not."""
    with contextlib.suppress(CannotFetch):
        await _spoken(source, "renew", timeout_s)


async def give_up(source: KvSource, timeout_s: float) -> None:
    """Tell a prefill engine that nobody wants its KV cache; whether it hears that or not."""
    with contextlib.suppress(CannotFetch):
        await _spoken(source, "release", timeout_s)


async def _unless_closed(reader: asyncio.StreamReader, answer: Coroutine[Any, Any, Told]) -> Told:
    """Return an answer; give it up with whoever has asked.

    Raises:
        ConnectionResetError: They have gone.
    """
    answering, closing = asyncio.ensure_future(answer), asyncio.ensure_future(reader.read(1))
    try:
        await asyncio.wait((answering, closing), return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            return answering.result()
        raise ConnectionResetError("the decode engine has gone")
    finally:
        answering.cancel()
        closing.cancel()
        await asyncio.gather(answering, closing, return_exceptions=True)


async def _answer(leases: Leases, ask: Ask) -> Told:
    if ask.verb == "renew":
        leases.renew(ask.engine_id, ask.request_id)
        return Told()
    if ask.verb == "release":
        leases.release(ask.engine_id, ask.request_id)
        return Told()
    if ask.verb == "meet":
        given = await leases.meet(ask.request_id)
    else:
        given = leases.pull(ask.engine_id, ask.request_id)
    return Told(refused=given) if isinstance(given, Refusal) else Told(*given)


async def _spoken(source: KvSource, verb: Verb, timeout_s: float) -> Told:
    line = msgspec.json.encode(Ask(verb, source.engine_id, source.request_id)) + b"\n"
    try:
        async with asyncio.timeout(timeout_s):
            return await _until_there(lambda: _exchange(source, line))
    except (TimeoutError, OSError, msgspec.MsgspecError) as error:
        raise CannotFetch(f"{source.host}:{source.port}: {str(error) or 'time-out'}") from None


async def _until_there(attempt: Callable[[], Awaitable[Told]]) -> Told:
    """Try again while nobody listens, as ZeroMQ does."""
    while True:
        try:
            return await attempt()
        except ConnectionError:
            await asyncio.sleep(_RETRY_S)


async def _exchange(source: KvSource, line: bytes) -> Told:
    reader, writer = await asyncio.open_connection(source.host, source.port, limit=_LINE_BYTES)
    try:
        writer.write(line)
        await writer.drain()
        if answer := await reader.readline():
            return _told(answer)
        raise ConnectionResetError("the side channel was closed")
    finally:
        writer.close()
