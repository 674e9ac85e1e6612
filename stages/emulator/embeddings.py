"""How SGLang's encoders bring embeddings to the server that asked for them: a JSON object, over TCP.

It stands for their ZeroMQ sockets. No embedding moves: the digests of what was encoded do, so that a wrong
one shows in the answer.
"""

import asyncio
import contextlib
from collections.abc import Callable

import msgspec

_LINE_BYTES = 1 << 20


class Part(msgspec.Struct, frozen=True):
    """What one encoder made for one request.

    Attributes:
        req_id: Of the part.
        contents: Digests of the media, in order.
    """

    req_id: str
    contents: list[str]


_part = msgspec.json.Decoder(Part).decode


async def receive_parts(host: str, take: Callable[[Part], None]) -> asyncio.Server:
    """Listen on a free port for parts; `take` gets each."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ValueError, msgspec.MsgspecError):
            take(_part(await reader.readline()))
        writer.close()

    return await asyncio.start_server(listen, host, 0, limit=_LINE_BYTES)


async def send_part(address: str, part: Part) -> None:
    """Bring a part to `host:port`.

    Raises:
        OSError: Nobody is there.
    """
    host, _, port = address.rpartition(":")
    _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    writer.write(msgspec.json.encode(part) + b"\n")
    await writer.drain()
    writer.close()
