"""A lean HTTP client for streamed answers: it shares the cores with what it measures."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field

_END = b"0\r\n\r\n"


@dataclass(slots=True)
class Answer:
    """What came and when.

    Attributes:
        reads: Second and bytes of each read.
    """

    reads: list[tuple[float, bytes]] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        """Everything that came, headers and chunk sizes included."""
        return b"".join(data for _, data in self.reads)


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer = Answer()
        self._tail = b""
        self.closed = False
        self._done: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._answer.reads.append((time.monotonic(), data))
        if not self._answer.reads[0][1].startswith(b"HTTP/1.1 200"):
            self._fail(RuntimeError(f"refused: {self._answer.body[:500]!r}"))
        self._tail = (self._tail + data)[-len(_END) :]
        if self._tail == _END and self._done and not self._done.done():
            self._done.set_result(self._answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self.closed = True
        self._fail(ConnectionError(f"closed by the server: {self._answer.body[:300]!r}"))

    def _fail(self, error: Exception) -> None:
        if self._done and not self._done.done():
            self._done.set_exception(error)

    async def ask(self, request: bytes) -> Answer:
        """Send a request and return its chunked answer.

        Raises:
            RuntimeError: The answer is not 200.
        """
        assert self._transport
        self._answer, self._tail = Answer(), b""
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._done

    def close(self) -> None:
        """Close the connection."""
        if self._transport:
            self._transport.abort()


class Client:
    """Connections to one gateway, opened as needed and kept."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: deque[Connection] = deque()

    async def ask(self, request: bytes) -> Answer:
        """Send a request on an idle connection; see `Connection.ask`."""
        connection = self._kept() or await self._open()
        answer = await connection.ask(request)
        self._idle.append(connection)
        return answer

    def _kept(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        return None

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, "127.0.0.1", self._port)
        return connection

    def close(self) -> None:
        """Close all connections that are not in use."""
        while self._idle:
            self._idle.pop().close()


def chat_request(body: bytes, **headers: str) -> bytes:
    """Return the bytes of a POST to /v1/chat/completions."""
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: bench", "content-type: application/json"]
    lines += [f"content-length: {len(body)}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
