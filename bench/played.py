"""A burst played against an address, and what became of its requests."""

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.burst import TPOT_S, Ask
from bench.report import percentile
from cli.pressure.answers import Timed, timed
from cli.pressure.sse import Client

_PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """One burst, request by request in the order of `asks`.

    Attributes:
        answers: None for a request that was refused or broke off.
    """

    asks: Sequence[Ask]
    answers: Sequence[Timed | None]

    @property
    def met(self) -> list[bool]:
        """Whether each request met its targets."""
        return [
            answer is not None and answer.ttft_s <= ask.ttft_s and answer.tpot_s <= TPOT_S
            for ask, answer in zip(self.asks, self.answers, strict=True)
        ]

    @property
    def per_s(self) -> float:
        """Requests that met their targets per second of the burst."""
        return sum(self.met) / self.asks[-1].at_s

    def attained(self, *, images: bool | None = None) -> float:
        """Return the share of offered requests that met their targets, of those with or without images."""
        asked = zip(self.asks, self.met, strict=True)
        return statistics.mean(met for ask, met in asked if images is None or bool(ask.images) == images)

    @property
    def lost(self) -> int:
        """Requests without an answer."""
        return sum(answer is None for answer in self.answers)

    def ttft_s(self, fraction: float) -> float:
        """Return a percentile over answered requests."""
        return percentile([answer.ttft_s for answer in self.answers if answer], fraction)

    def tpot_s(self, fraction: float) -> float:
        """Likewise."""
        return percentile([answer.tpot_s for answer in self.answers if answer], fraction)


async def play(port: int, asks: Sequence[Ask]) -> Played:
    """Send each request at its time, whatever becomes of those before, and wait for all answers."""
    client, began_s = Client(port), time.monotonic() + 0.1
    running: list[asyncio.Task[Timed | None]] = []
    try:
        for ask in asks:
            due_s = began_s + ask.at_s
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            running.append(asyncio.create_task(_answered(client, ask, due_s)))
        return Played(asks=asks, answers=await asyncio.gather(*running))
    finally:
        client.close()


async def _answered(client: Client, ask: Ask, due_s: float) -> Timed | None:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            return timed(due_s, await client.ask(ask.body))
    except (RuntimeError, OSError, ValueError, TimeoutError):
        return None
