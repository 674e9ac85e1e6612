"""One pressure test: so many requests in progress for so long, and what they cost."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from cli.pressure.answers import Timed, timed
from cli.pressure.requests import Shape
from cli.pressure.sse import Answer, Client
from cli.pressure.system import CpuMeter, System
from orchestrator.profiles.pressure import Pressure, Row


async def press(
    system: System, requests: Iterator[tuple[Shape, bytes]], *, concurrency: int, duration_s: float
) -> Pressure:
    """Keep `concurrency` requests in progress.

    Raises:
        RuntimeError: One of them was refused.
        ValueError: One was answered without text.
    """
    client, meter = Client(system.port), CpuMeter(system.pids())
    began_s = time.monotonic()
    answers: list[tuple[Shape, float, Answer]] = []

    async def one() -> None:
        while time.monotonic() < began_s + duration_s:
            shape, request = next(requests)
            sent_s = time.monotonic()
            answers.append((shape, sent_s, await client.ask(request)))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(one())
    finally:
        client.close()
    wall_s, used_s = time.monotonic() - began_s, meter.read_s()
    # Reading the answers is put off until the processor time is taken.
    answered = [(shape, timed(sent_s, answer)) for shape, sent_s, answer in answers]
    return pressure(answered, concurrency, wall_s, used_s)


def pressure(
    answered: Sequence[tuple[Shape, Timed]], concurrency: int, wall_s: float, used_s: Mapping[str, float]
) -> Pressure:
    """Return what a test of these requests comes to."""
    times = [each for _, each in answered]
    several = [each.tpot_s for each in times if each.output_tokens > 1]
    return Pressure(
        rows=tuple(Row(shape.images, each.prompt_tokens, each.output_tokens) for shape, each in answered),
        concurrency=concurrency,
        wall_s=wall_s,
        ttfts_s=tuple(each.ttft_s for each in times),
        tpot_s=fmean(several) if several else 0.0,
        events=fmean(each.events for each in times),
        cpu_s={kind: seconds / len(times) for kind, seconds in used_s.items()},
    )
