"""Replies sorted to whoever waits for them."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable

from orchestrator.ports import Delivery
from stages.reply import Reply, is_terminal


class Inbox:
    """Replies to one attempt, in order.

    Attributes:
        ended: A terminal reply has arrived.
        heard_s: Monotonic second of the last reply, or of the opening.
    """

    def __init__(self, on_depth: Callable[[int], None]) -> None:
        self._replies: deque[Reply] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._on_depth = on_depth
        self.ended = False
        self.heard_s = time.monotonic()

    def put(self, reply: Reply) -> None:
        """Add a reply."""
        self._replies.append(reply)
        self.ended = is_terminal(reply)
        self.heard_s = time.monotonic()
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)
        self._on_depth(len(self._replies))

    async def get(self) -> Reply:
        """Return the next reply, waiting for it."""
        while not self._replies:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        reply = self._replies.popleft()
        self._on_depth(len(self._replies))
        return reply


class Inboxes:
    """The open inboxes of a gateway, by job key."""

    def __init__(self) -> None:
        self._open: dict[str, Inbox] = {}

    def open(self, job_key: str, on_depth: Callable[[int], None] = lambda depth: None) -> Inbox:
        """Open an inbox; `on_depth` hears the number of unread replies whenever it changes."""
        inbox = self._open[job_key] = Inbox(on_depth)
        return inbox

    def close(self, job_key: str) -> None:
        """Drop an inbox; what arrives for it later is dropped too."""
        self._open.pop(job_key, None)

    def deliver(self, deliveries: Iterable[Delivery]) -> None:
        """Sort what came in a reply stream."""
        for delivery in deliveries:
            inbox = self._open.get(delivery.job_key)
            if inbox:
                inbox.put(delivery.reply)
