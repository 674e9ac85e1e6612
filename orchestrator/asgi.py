"""One HTTP request as ASGI has it: its headers, its body, its answer, and its line in the log."""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.api_errors import body_too_large, invalid_request
from orchestrator.logs import request_fields

log = logging.getLogger(__name__)

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]

STALL_S = 30.0
"""A client that has kept its answer waiting for so long, all in all, loses its request."""
BODY_S = 30.0
"""A body must have come whole within this time."""
CLIENT_GONE = 499
"""Status in logs and metrics of a request whose client did not wait for its answer, as nginx has it."""

JSON: Headers = ((b"content-type", b"application/json"),)
EVENTS: Headers = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))


class ClientGone(Exception):
    """The client closed its connection, or stopped reading."""


@dataclass(slots=True, eq=False)
class Call:
    """One HTTP request and what becomes of it.

    Attributes:
        headers: Names in lower case; of repeated ones the last.
        x_request_id: The client's name for the request, or one made up for it.
        arrival_s: Monotonic second of arrival.
        stalled_s: Seconds that the client has kept its answer waiting.
        status: Of the answer, once it has started; 0 before.
        notes: What the access line says besides; grows while the request is served.
    """

    scope: Scope
    receive: Receive
    send: Send
    headers: Mapping[str, str] = field(init=False)
    x_request_id: str = field(init=False)
    arrival_s: float = field(default_factory=time.monotonic)
    stalled_s: float = 0.0
    status: int = 0
    notes: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in self.scope["headers"]}
        given = self.headers.get("x-request-id", "")
        fit = 0 < len(given) <= 128 and given.isascii() and given.isprintable()
        self.x_request_id = given if fit else secrets.token_hex(16)

    @property
    def path(self) -> str:
        """Path without the query."""
        return str(self.scope["path"])

    @property
    def method(self) -> str:
        """HTTP method, in capitals."""
        return str(self.scope["method"])

    @property
    def traceparent(self) -> str:
        """W3C trace context if the client sent a plausible one, else empty."""
        given = self.headers.get("traceparent", "")
        return given if len(given) <= 128 and given.isascii() and given.isprintable() else ""

    def log_fields(self) -> dict[str, Any]:
        """Return the `extra` of a log line about this request."""
        return request_fields(str(self.notes.get("request_id", "")), self.x_request_id, self.traceparent)

    def integer(self, header: str, low: int, high: int) -> int | None:
        """Return an integer header, None if it is absent.

        Raises:
            ApiError: 400 if it is no integer from `low` to `high`.
        """
        value = self.headers.get(header)
        if value is None:
            return None
        digits = value.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) < 20 and low <= int(value) <= high):
            message = f"the header {header} must be an integer from {low} to {high}"
            raise invalid_request(message, code="invalid_header")
        return int(value)

    async def body(self, limit_bytes: int) -> bytes:
        """Return the request's body.

        Raises:
            ApiError: 413 as soon as the body is known to exceed the limit.
            ClientGone: It did not come whole, or not in time.
        """
        if self.announced_bytes(limit_bytes) > limit_bytes:
            raise body_too_large(limit_bytes)
        try:
            async with asyncio.timeout(BODY_S):
                return await self._body(limit_bytes)
        except TimeoutError:
            raise ClientGone from None

    def announced_bytes(self, default: int) -> int:
        """Return the body's length as the client announced it, or `default`."""
        length = self.integer("content-length", 0, 10**18)
        return default if length is None else length

    async def _body(self, limit_bytes: int) -> bytes:
        parts: list[bytes] = []
        size_bytes = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            parts.append(message.get("body", b""))
            size_bytes += len(parts[-1])
            if size_bytes > limit_bytes:
                raise body_too_large(limit_bytes)
            if not message.get("more_body"):
                return b"".join(parts)

    async def until_gone(self) -> None:
        """Return when the client has closed its connection. To be called when the body has been read."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send a whole JSON answer."""
        length = (b"content-length", str(len(body)).encode())
        await self.start(status, (*JSON, length), headers)
        await self.write(body, more=False)

    async def start(self, status: int, fixed: Headers, headers: Mapping[str, str] | None = None) -> None:
        """Send the head of an answer."""
        self.status = status
        own = [(b"x-request-id", self.x_request_id.encode())]
        given = [
            (name.encode(), value.encode("latin-1", "replace")) for name, value in (headers or {}).items()
        ]
        await self.send({"type": "http.response.start", "status": status, "headers": [*fixed, *given, *own]})

    async def write(self, body: bytes, *, more: bool) -> None:
        """Send a part of the answer's body.

        Raises:
            ClientGone: The client does not read.
        """
        begun_s = time.monotonic()
        try:
            async with asyncio.timeout(STALL_S - self.stalled_s):
                await self.send({"type": "http.response.body", "body": body, "more_body": more})
        except TimeoutError:
            raise ClientGone from None
        self.stalled_s += time.monotonic() - begun_s

    def log_access(self, level: int) -> None:
        """Write the request's line."""
        fields = {
            "method": self.method,
            "path": self.path[:200],
            "status": self.status,
            "duration_s": round(time.monotonic() - self.arrival_s, 6),
        }
        log.log(level, "request", extra=self.log_fields() | fields | self.notes)
