"""A bound on the bytes of clients' media that one process holds at once."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from orchestrator.api_errors import ApiError, invalid_request, unavailable

Grow = Callable[[int], None]
"""Reserves room for so many bytes more, before they are kept. Raises `ApiError` 503 if there is none."""


class ByteBudget:
    """First come, first served. Used from one event loop.

    What is known beforehand is reserved before a byte is decoded, and waits for room if there is
    none. What comes from elsewhere is reserved piece by piece as it arrives: reserving the worst case
    would let a few slow hosts keep everybody else out.

    Args:
        capacity_bytes: Bytes held by all together, at most.
        wait_s: How long a reservation may wait for room.
    """

    def __init__(self, capacity_bytes: int, wait_s: float = 2.0) -> None:
        self._capacity_bytes = capacity_bytes
        self._wait_s = wait_s
        self._held_bytes = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def held_bytes(self) -> int:
        """Bytes reserved now."""
        return self._held_bytes

    @asynccontextmanager
    async def hold(self, size_bytes: int) -> AsyncIterator[Grow]:
        """Hold room for so many bytes within the context, and for what the yielded function adds.

        Raises:
            ApiError: 503 with Retry-After: there was no room in time. 400: there can never be.
        """
        if size_bytes > self._capacity_bytes:
            message = (
                f"media of {size_bytes:,} bytes in memory exceed this gateway's {self._capacity_bytes:,}"
            )
            raise invalid_request(message, code="media_too_large")
        grown_bytes = 0

        def grow(more_bytes: int) -> None:
            nonlocal grown_bytes
            if self._held_bytes + more_bytes > self._capacity_bytes:
                raise self._full()
            self._held_bytes += more_bytes
            grown_bytes += more_bytes

        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size_bytes, turn))
        self._grant()
        try:
            await self._wait(turn)
            yield grow
        finally:
            # A turn that was given up is cancelled, unless it was granted in the same moment.
            if not turn.cancelled():
                self._held_bytes -= size_bytes + grown_bytes
            self._grant()

    async def _wait(self, turn: asyncio.Future[None]) -> None:
        try:
            async with asyncio.timeout(self._wait_s):
                await turn
        except TimeoutError:
            raise self._full() from None

    def _full(self) -> ApiError:
        return unavailable("the gateway's memory for media is full", self._wait_s)

    def _grant(self) -> None:
        while self._waiting:
            size_bytes, turn = self._waiting[0]
            if not turn.done():
                if self._held_bytes + size_bytes > self._capacity_bytes:
                    return
                self._held_bytes += size_bytes
                turn.set_result(None)
            self._waiting.popleft()
