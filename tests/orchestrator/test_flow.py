"""A decode is held back while its reader lags, and let go again whatever gets lost on the way."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from orchestrator.hops import PAUSE_AT_REPLIES, RESUME_AT_REPLIES, Flow


class Line:
    """What was said, in order; the first `failures` messages get lost with an error."""

    def __init__(self, failures: int = 0) -> None:
        self.said: list[str] = []
        self.failures = failures
        self.tasks: list[asyncio.Task[None]] = []

    async def send(self, verb: str) -> None:
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise ConnectionError
        self.said.append(verb)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.create_task(work))

    async def settled(self) -> list[str]:
        await asyncio.gather(*self.tasks, return_exceptions=True)
        return self.said


def test_between_the_marks_nothing_is_said() -> None:
    async def scenario() -> None:
        line = Line()
        flow = Flow(line.send, line.spawn)
        for depth in range(PAUSE_AT_REPLIES + 1):
            flow.on_depth(depth)
        assert await line.settled() == []

    asyncio.run(scenario())


def test_a_lagging_reader_pauses_and_a_reader_that_caught_up_resumes() -> None:
    async def scenario() -> None:
        line = Line()
        flow = Flow(line.send, line.spawn)
        flow.on_depth(PAUSE_AT_REPLIES + 1)
        assert await line.settled() == ["pause"]
        flow.on_depth(RESUME_AT_REPLIES)
        assert await line.settled() == ["pause"]
        flow.on_depth(RESUME_AT_REPLIES - 1)
        assert await line.settled() == ["pause", "resume"]

    asyncio.run(scenario())


def test_what_was_meant_last_is_said_last() -> None:
    """However fast the depth swings, messages go out one at a time."""

    async def scenario() -> None:
        line = Line()
        flow = Flow(line.send, line.spawn)
        for _ in range(10):
            flow.on_depth(PAUSE_AT_REPLIES + 1)
            await asyncio.sleep(0)
            flow.on_depth(0)
        assert (await line.settled())[-1] == "resume"

    asyncio.run(scenario())


def test_a_lost_message_is_said_again() -> None:
    async def scenario() -> None:
        line = Line(failures=1)
        flow = Flow(line.send, line.spawn)
        flow.on_depth(PAUSE_AT_REPLIES + 1)
        assert await line.settled() == []
        await flow.repeat()
        assert await line.settled() == ["pause"]

    asyncio.run(scenario())
