"""Load generators, timing from the scheduled arrival: open loop at a rate, closed loop at a concurrency."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

Send = Callable[[], Awaitable[None]]
"""Serves one request from beginning to end."""


@dataclass(slots=True)
class Window:
    """What one window of load gave.

    Attributes:
        latencies_s: Of each request, from the moment it should have been sent.
        wall_s: From the first arrival to the last answer.
    """

    latencies_s: list[float] = field(default_factory=list)
    wall_s: float = 0.0

    @property
    def per_s(self) -> float:
        """Requests per second."""
        return len(self.latencies_s) / self.wall_s


async def open_loop(send: Send, rate_per_s: float, duration_s: float, seed: int = 0) -> Window:
    """Send at Poisson arrivals, whatever becomes of the requests before."""
    rng = random.Random(seed)
    window, started_s = Window(), time.monotonic()
    due_s, running = started_s, set()

    async def one(due_s: float) -> None:
        await send()
        window.latencies_s.append(time.monotonic() - due_s)

    while due_s < started_s + duration_s:
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        running.add(asyncio.create_task(one(due_s)))
        due_s += rng.expovariate(rate_per_s)
    await asyncio.gather(*running)
    window.wall_s = time.monotonic() - started_s
    return window


async def closed_loop(send: Send, concurrency: int, duration_s: float) -> Window:
    """Keep `concurrency` requests in progress."""
    window, started_s = Window(), time.monotonic()

    async def client() -> None:
        while time.monotonic() < started_s + duration_s:
            sent_s = time.monotonic()
            await send()
            window.latencies_s.append(time.monotonic() - sent_s)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(client())
    window.wall_s = time.monotonic() - started_s
    return window
