"""One completion as it comes, whole or as server-sent events: rendered here, or an engine's own words."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from orchestrator.api import ChatRequest, warning_header
from orchestrator.api_render import DONE, AnswerHead, EventStream, Usage, completion_body
from orchestrator.asgi import EVENTS, Call
from orchestrator.counting import Counting
from orchestrator.hops import Request
from orchestrator.metrics import Metrics, modality_of
from orchestrator.pipeline import Pipeline, Work
from stages.front import TextFront
from stages.stop import StopText
from stages.types import FinishReason, TokenChunk


class Course:
    """Notes when a completion begins and ends: metrics, counts, the access line.

    Attributes:
        tokens: Completion tokens so far.
        finish: Why it ended, once it has.
    """

    def __init__(
        self, call: Call, request: Request, work: Work, metrics: Metrics, counting: Counting
    ) -> None:
        self._call = call
        self._request = request
        self._prompt_tokens = work.tag.context_tokens
        self._metrics = metrics
        self._modality = modality_of(work.tag)
        self._counting = counting
        self._first_s = 0.0
        self.tokens = 0
        self.finish: FinishReason | None = None

    def saw(self, chunk: TokenChunk) -> None:
        """Take the next chunk."""
        now_s = time.monotonic()
        if not self._first_s:
            self._began(now_s)
        self.tokens += len(chunk.tokens)
        if chunk.finish:
            self._ended(chunk.finish, now_s)

    def _began(self, now_s: float) -> None:
        self._first_s = now_s
        ttft_s = now_s - self._request.arrival_s
        self._metrics.ttft_s.labels(self._modality).observe(ttft_s)
        self._counting.first_token(self._request, now_s)
        self._call.notes["ttft_s"] = round(ttft_s, 6)

    def _ended(self, finish: FinishReason, now_s: float) -> None:
        self.finish = finish
        self._metrics.success.labels(finish).inc()
        self._metrics.prompt_tokens.inc(self._prompt_tokens)
        self._metrics.generation_tokens.inc(self.tokens)
        self._counting.completed(self._request, self._first_s, self.tokens, now_s)
        if self.tokens > 1:
            tpot_s = (now_s - self._first_s) / (self.tokens - 1)
            self._metrics.tpot_s.labels(self._modality).observe(tpot_s)
        self._call.notes |= {
            "finish": finish,
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self.tokens,
        }


class Answer:
    """Sends a pipeline's tokens to the client as text."""

    def __init__(
        self, call: Call, chat: ChatRequest, work: Work, pipeline: Pipeline, front: TextFront, course: Course
    ) -> None:
        self._call = call
        self._chat = chat
        self._prompt_tokens = work.tag.context_tokens
        self._pipeline = pipeline
        self._course = course
        self._text = StopText(front.detokenize, work.sampling.stop)
        self._head = AnswerHead(
            completion_id=f"chatcmpl-{pipeline.request_id}", model=front.name, created_unix_s=int(time.time())
        )

    async def send(self) -> None:
        """Send the answer in the form that the client asked for.

        Raises:
            RequestFailed: And what else ends a pipeline. The answer may have started by then.
            ClientGone: The client does not read.
        """
        await (self._stream() if self._chat.stream else self._whole())

    async def _whole(self) -> None:
        async with aclosing(self._pieces()) as pieces:
            text = "".join([piece async for piece in pieces])
        assert self._course.finish
        body = completion_body(self._head, text, self._course.finish, self._usage())
        await self._call.answer(200, body, self._headers())

    async def _stream(self) -> None:
        # Nothing is sent before the first piece is there, so that a failure until then has its status.
        events = EventStream(self._head, include_usage=self._chat.include_usage)
        async with aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                event = events.delta(piece) if piece else b""
                if not self._call.status:
                    await self._call.start(200, EVENTS, self._headers())
                    event = events.first() + event
                if event:
                    await self._call.write(event, more=True)
        assert self._course.finish
        usage = events.usage(self._usage()) if self._chat.include_usage else b""
        await self._call.write(events.last(self._course.finish) + usage + DONE, more=False)

    async def _pieces(self) -> AsyncGenerator[str]:
        """Yield text, one piece per chunk of tokens, some empty."""
        async with aclosing(self._pipeline.run()) as chunks:
            async for chunk in chunks:
                self._course.saw(chunk)
                yield self._text.push(chunk.tokens) + (self._text.finish() if chunk.finish else "")

    def _usage(self) -> Usage:
        return Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._course.tokens,
            cached_tokens=self._pipeline.cached_tokens,
        )

    def _headers(self) -> dict[str, str]:
        return {"x-tercet-warning": warning_header(self._chat.ignored)} if self._chat.ignored else {}


class Relay:
    """Passes an engine's own answer on to the client (ADR 13)."""

    def __init__(self, call: Call, chat: ChatRequest, pipeline: Pipeline, course: Course) -> None:
        self._call = call
        self._chat = chat
        self._pipeline = pipeline
        self._course = course

    async def send(self) -> None:
        """Send the answer; see `Answer.send`."""
        async with aclosing(self._pipeline.run()) as chunks:
            async for chunk in chunks:
                self._course.saw(chunk)
                if self._chat.stream:
                    await self._event(chunk.raw.encode(), last=chunk.finish is not None)
                elif chunk.finish:
                    await self._call.answer(200, chunk.raw.encode())

    async def _event(self, events: bytes, *, last: bool) -> None:
        if not self._call.status:
            await self._call.start(200, EVENTS)
        await self._call.write(events + DONE if last else events, more=not last)
