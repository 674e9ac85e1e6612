"""An open load on a running system: requests at given times, whatever becomes of those before."""

import asyncio
import time
from collections.abc import Sequence

from cli.pressure.answers import Timed, timed
from cli.pressure.sse import Answer, Client


async def open_load(port: int, requests: Sequence[bytes], arrival_s: Sequence[float]) -> list[Timed]:
    """Send each request at its time, in seconds from now, and return how all were answered, in that order.

    A request counts as sent when it was due, so that a late client does not flatter the system.

    Raises:
        RuntimeError: One of them was refused.
    """
    client = Client(port)
    answers: list[tuple[float, Answer]] = [(0.0, Answer())] * len(requests)
    began_s = time.monotonic() + 0.1

    async def one(index: int, due_s: float) -> None:
        answers[index] = (due_s, await client.ask(requests[index]))

    try:
        async with asyncio.TaskGroup() as group:
            for index, at_s in enumerate(arrival_s):
                due_s = began_s + at_s
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                group.create_task(one(index, due_s))
    finally:
        client.close()
    return [timed(*answer) for answer in answers]
