"""One completion rendered as it comes: a JSON body, or server-sent events."""

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
from stages.front import ModelFront
from stages.stop import StopText
from stages.types import FinishReason


class Answer:
    """Sends a pipeline's tokens to the client as text."""

    def __init__(
        self,
        call: Call,
        chat: ChatRequest,
        request: Request,
        work: Work,
        pipeline: Pipeline,
        front: ModelFront,
        metrics: Metrics,
        counting: Counting,
    ) -> None:
        self._call = call
        self._chat = chat
        self._request = request
        self._work = work
        self._pipeline = pipeline
        self._metrics = metrics
        self._modality = modality_of(work.tag)
        self._counting = counting
        self._text = StopText(front.detokenize, work.sampling.stop)
        self._tokens = 0
        self._first_s = 0.0
        self._finish: FinishReason | None = None
        self._head = AnswerHead(
            completion_id=f"chatcmpl-{request.request_id}", model=front.name, created_unix_s=int(time.time())
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
        assert self._finish
        body = completion_body(self._head, text, self._finish, self._usage())
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
        assert self._finish
        usage = events.usage(self._usage()) if self._chat.include_usage else b""
        await self._call.write(events.last(self._finish) + usage + DONE, more=False)

    async def _pieces(self) -> AsyncGenerator[str]:
        """Yield text, one piece per chunk of tokens, some empty."""
        async with aclosing(self._pipeline.run()) as chunks:
            async for chunk in chunks:
                now_s = time.monotonic()
                if not self._first_s:
                    self._began(now_s)
                self._tokens += len(chunk.tokens)
                piece = self._text.push(chunk.tokens)
                if chunk.finish:
                    piece += self._text.finish()
                    self._ended(chunk.finish, now_s)
                yield piece

    def _began(self, now_s: float) -> None:
        self._first_s = now_s
        ttft_s = now_s - self._request.arrival_s
        self._metrics.ttft_s.labels(self._modality).observe(ttft_s)
        self._counting.first_token(self._request, now_s)
        self._call.notes["ttft_s"] = round(ttft_s, 6)

    def _ended(self, finish: FinishReason, now_s: float) -> None:
        self._finish = finish
        self._metrics.success.labels(finish).inc()
        self._metrics.prompt_tokens.inc(self._work.tag.context_tokens)
        self._metrics.generation_tokens.inc(self._tokens)
        self._counting.completed(self._request, self._first_s, self._tokens, now_s)
        if self._tokens > 1:
            tpot_s = (now_s - self._first_s) / (self._tokens - 1)
            self._metrics.tpot_s.labels(self._modality).observe(tpot_s)
        self._call.notes |= {
            "finish": finish,
            "prompt_tokens": self._work.tag.context_tokens,
            "completion_tokens": self._tokens,
        }

    def _usage(self) -> Usage:
        return Usage(
            prompt_tokens=self._work.tag.context_tokens,
            completion_tokens=self._tokens,
            cached_tokens=self._pipeline.cached_tokens,
        )

    def _headers(self) -> dict[str, str]:
        return {"x-tercet-warning": warning_header(self._chat.ignored)} if self._chat.ignored else {}
