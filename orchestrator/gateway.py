"""HTTP in, server-sent events out: the OpenAI routes over the pipeline."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass

import msgspec

from orchestrator.api import ChatRequest, parse_chat, warning_header
from orchestrator.api_errors import (
    ApiError,
    body_too_large,
    error_body,
    internal_error,
    invalid_request,
    method_not_allowed,
    not_found,
    poison_request,
    timed_out,
    unauthorized,
    unavailable,
)
from orchestrator.api_render import DONE, AnswerHead, EventStream, Usage, completion_body, models_body
from orchestrator.core.waiting import PRIORITY_RANGE, due_s
from orchestrator.dispatch import DeadlinePassed
from orchestrator.fleet import Fleet
from orchestrator.hops import Request
from orchestrator.intake import Intake, media_limits
from orchestrator.keys import OPEN, ApiKey, ApiKeys
from orchestrator.logs import request_fields
from orchestrator.metrics import Metrics
from orchestrator.pipeline import (
    DeadlineExpired,
    Exhausted,
    InvalidRequest,
    Pipeline,
    PoisonRequest,
    Work,
)
from orchestrator.policy import Policy
from stages.blobs import BlobStoreFull
from stages.front import ModelFront
from stages.stop import StopText
from stages.types import FinishReason

log = logging.getLogger(__name__)

Scope = Mapping[str, object]
Receive = Callable[[], Awaitable[Mapping[str, object]]]
Send = Callable[[Mapping[str, object]], Awaitable[None]]

STALL_S = 30.0
"""A client that reads nothing for so long loses its request."""

_JSON = (b"content-type", b"application/json")
_EVENTS = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))


class ClientGone(Exception):
    """The client closed its connection, or stopped reading."""


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request: its ASGI ends, its headers in lower case, and when it came."""

    scope: Scope
    receive: Receive
    send: Send
    headers: Mapping[str, str]
    x_request_id: str
    arrival_s: float


class Gateway:
    """The ASGI application.

    Args:
        intake: Turns requests into work.
        keys: Who may call; None for everybody, on loopback only.
        problems: What `/ready` should say besides, such as a policy edit that is not in force.
    """

    def __init__(
        self,
        fleet: Fleet,
        intake: Intake,
        front: ModelFront,
        policy: Callable[[], Policy],
        metrics: Metrics,
        *,
        keys: ApiKeys | None,
        problems: Callable[[], Mapping[str, str]],
    ) -> None:
        self._fleet = fleet
        self._intake = intake
        self._front = front
        self._policy = policy
        self._metrics = metrics
        self._keys = keys
        self._problems = problems
        self._started_unix_s = int(time.time())
        self._routes = {
            "/v1/chat/completions": ("POST", self._chat),
            "/v1/models": ("GET", self._models),
            "/health": ("GET", self._health),
            "/ready": ("GET", self._ready),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}  # type: ignore[attr-defined]
        call = Call(scope, receive, send, headers, _request_name(headers), time.monotonic())
        try:
            await self._route(call)
        except ApiError as error:
            self._metrics.rejections.labels(error.code or error.type).inc()
            await _answer(call, error.status, error_body(error), error.headers)
        except ClientGone:
            log.info("client went away", extra=_log_fields(call))
        except Exception:
            log.exception("request failed", extra=_log_fields(call))
            failure = internal_error(call.x_request_id)
            await _answer(call, failure.status, error_body(failure))

    async def _route(self, call: Call) -> None:
        path, method = str(call.scope["path"]), str(call.scope["method"])
        if path not in self._routes:
            raise not_found(path)
        allowed, handler = self._routes[path]
        if method != allowed:
            raise method_not_allowed(method, path, allowed)
        await handler(call)

    async def _health(self, call: Call) -> None:
        await _answer(call, 200, b"")

    async def _ready(self, call: Call) -> None:
        stages = {stage: load.live_replicas for stage, load in self._fleet.loads().items()}
        body = msgspec.json.encode(
            {"ready": self._fleet.ready(), "live_replicas": stages, **self._problems()}
        )
        await _answer(call, 200 if self._fleet.ready() else 503, body)

    async def _models(self, call: Call) -> None:
        self._caller(call)
        await _answer(call, 200, models_body([self._front.name], self._started_unix_s))

    async def _chat(self, call: Call) -> None:
        key = self._caller(call)
        body = await _read_body(call, media_limits(self._policy()).body_bytes)
        chat = parse_chat(body, known_models={self._front.name}, default_seed=secrets.randbits(63))
        request = self._request(call, key)
        self._metrics.running.inc()
        try:
            await _unless_gone(call, self._serve(call, chat, request))
        finally:
            self._metrics.running.dec()
            self._metrics.duration_s.observe(time.monotonic() - call.arrival_s)
            self._fleet.ended(request.request_id)

    def _caller(self, call: Call) -> ApiKey:
        if self._keys is None:
            return OPEN
        key = self._keys.check(call.headers.get("authorization"))
        if key is None:
            raise unauthorized()
        return key

    def _request(self, call: Call, key: ApiKey) -> Request:
        policy = self._policy()
        own_s = _number(call, "x-tercet-deadline-ms", 1, 3_600_000)
        patience_s = policy.admission.deadline_s if own_s is None else own_s / 1000
        priority = _number(call, "x-tercet-priority", -PRIORITY_RANGE, PRIORITY_RANGE) or 0
        named_s = None if own_s is None else call.arrival_s + patience_s
        return Request(
            request_id=secrets.token_hex(8),
            reply_to=self._fleet.gateway,
            model=self._front.name,
            arrival_s=call.arrival_s,
            due_s=named_s or due_s(call.arrival_s, 0.0, policy.waiting_params),
            deadline_s=call.arrival_s + patience_s,
            deadline_unix_s=time.time() + patience_s,
            priority=min(priority, key.max_priority),
            x_request_id=call.x_request_id,
            traceparent=call.headers.get("traceparent", ""),
        )

    async def _serve(self, call: Call, chat: ChatRequest, request: Request) -> None:
        with _as_api_errors(call):
            async with asyncio.timeout_at(request.deadline_s), self._intake.take(chat, request) as work:
                pipeline = Pipeline(self._fleet.hops, self._fleet.prefixes, request, work)
                answer = _Answer(call, chat, request, work, pipeline, self._front, self._metrics)
                await (answer.stream() if chat.stream else answer.whole())


class _Answer:
    """Renders one completion as it comes."""

    def __init__(
        self,
        call: Call,
        chat: ChatRequest,
        request: Request,
        work: Work,
        pipeline: Pipeline,
        front: ModelFront,
        metrics: Metrics,
    ) -> None:
        self._call = call
        self._chat = chat
        self._request = request
        self._work = work
        self._pipeline = pipeline
        self._metrics = metrics
        self._text = StopText(front.detokenize, work.sampling.stop)
        self._tokens = 0
        self._first_s = 0.0
        self._finish: FinishReason | None = None
        self._head = AnswerHead(
            completion_id=f"chatcmpl-{request.request_id}", model=front.name, created_unix_s=int(time.time())
        )

    async def whole(self) -> None:
        """Send one JSON body."""
        async with aclosing(self._pieces()) as pieces:
            text = "".join([piece async for piece in pieces])
        assert self._finish
        body = completion_body(self._head, text, self._finish, self._usage())
        await _answer(self._call, 200, body, self._headers())

    async def stream(self) -> None:
        """Send events. Until the first piece is there, a failure is still an HTTP error."""
        events = EventStream(self._head, include_usage=self._chat.include_usage)
        started = False
        try:
            async with aclosing(self._pieces()) as pieces:
                async for piece in pieces:
                    if not started:
                        started = True
                        await _start(self._call, 200, [*_EVENTS, *_encoded(self._headers())])
                        piece_event = events.first() + (events.delta(piece) if piece else b"")
                    else:
                        piece_event = events.delta(piece) if piece else b""
                    if piece_event:
                        await _send_body(self._call, piece_event, more=True)
            assert self._finish
            end = events.last(self._finish)
            if self._chat.include_usage:
                end += events.usage(self._usage())
            await _send_body(self._call, end + DONE, more=False)
        except Exception as error:
            if not started or isinstance(error, ClientGone):
                raise
            failure = _api_error(self._call, error)
            await _send_body(self._call, events.error(failure) + DONE, more=False)

    async def _pieces(self) -> AsyncGenerator[str]:
        """Yield text, one piece per chunk of tokens, some empty."""
        async with aclosing(self._pipeline.run()) as chunks:
            async for chunk in chunks:
                now_s = time.monotonic()
                if not self._first_s:
                    self._first_s = now_s
                    self._metrics.ttft_s.observe(now_s - self._request.arrival_s)
                self._tokens += len(chunk.tokens)
                piece = self._text.push(chunk.tokens)
                if chunk.finish:
                    piece += self._text.finish()
                    self._ended(chunk.finish, now_s)
                yield piece

    def _ended(self, finish: FinishReason, now_s: float) -> None:
        self._finish = finish
        self._metrics.success.labels(finish).inc()
        self._metrics.prompt_tokens.inc(self._work.tag.context_tokens)
        self._metrics.generation_tokens.inc(self._tokens)
        if self._tokens > 1:
            self._metrics.tpot_s.observe((now_s - self._first_s) / (self._tokens - 1))

    def _usage(self) -> Usage:
        return Usage(
            prompt_tokens=self._work.tag.context_tokens,
            completion_tokens=self._tokens,
            cached_tokens=self._pipeline.cached_tokens,
        )

    def _headers(self) -> dict[str, str]:
        return {"x-tercet-warning": warning_header(self._chat.ignored)} if self._chat.ignored else {}


@contextlib.contextmanager
def _as_api_errors(call: Call) -> Iterator[None]:
    """Turn what ends a request into what its client is told."""
    try:
        yield
    except (ApiError, ClientGone):
        raise
    except Exception as error:
        raise _api_error(call, error) from error


def _api_error(call: Call, error: Exception) -> ApiError:
    match error:
        case ApiError():
            return error
        case InvalidRequest():
            return invalid_request(str(error), param="messages", code="invalid_media")
        case TimeoutError() | DeadlinePassed() | DeadlineExpired():
            return timed_out("the deadline passed; allow more time or send less")
        case PoisonRequest():
            return poison_request(call.x_request_id)
        case BlobStoreFull():
            return unavailable("the blob store is full; requests in progress will make room", 1.0)
        case Exhausted() | ConnectionError():
            return unavailable("replicas keep failing; see `tercet status`", 1.0)
    log.error("request failed", exc_info=error, extra=_log_fields(call))
    return internal_error(call.x_request_id)


async def _unless_gone(call: Call, work: Coroutine[None, None, None]) -> None:
    """Do the work, and cancel it if the client closes its connection."""
    serving = asyncio.ensure_future(work)
    listening = asyncio.ensure_future(_until_gone(call.receive))
    try:
        await asyncio.wait((serving, listening), return_when=asyncio.FIRST_COMPLETED)
    finally:
        listening.cancel()
        if not serving.done():
            serving.cancel()
            await asyncio.wait((serving,))
    if serving.cancelled():
        raise ClientGone
    serving.result()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read_body(call: Call, limit_bytes: int) -> bytes:
    """Return the body.

    Raises:
        ApiError: 413 as soon as the body is known to exceed the limit.
    """
    if int(_number(call, "content-length", 0, 2**62) or 0) > limit_bytes:
        raise body_too_large(limit_bytes)
    parts, size = [], 0
    while True:
        message = await call.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        assert isinstance(part, bytes)
        size += len(part)
        if size > limit_bytes:
            raise body_too_large(limit_bytes)
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


async def _answer(call: Call, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
    length = (b"content-length", str(len(body)).encode())
    await _start(call, status, [_JSON, length, *_encoded(headers or {})])
    await _send_body(call, body, more=False)


async def _start(call: Call, status: int, headers: list[tuple[bytes, bytes]]) -> None:
    name = (b"x-request-id", call.x_request_id.encode())
    await call.send({"type": "http.response.start", "status": status, "headers": [*headers, name]})


async def _send_body(call: Call, body: bytes, *, more: bool) -> None:
    try:
        async with asyncio.timeout(STALL_S):
            await call.send({"type": "http.response.body", "body": body, "more_body": more})
    except TimeoutError:
        raise ClientGone from None


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]


def _number(call: Call, header: str, low: int, high: int) -> int | None:
    """Return an integer header, None if it is absent.

    Raises:
        ApiError: 400 if it is no integer from `low` to `high`.
    """
    value = call.headers.get(header)
    if value is None:
        return None
    if (
        not value.lstrip("-").isascii()
        or not value.lstrip("-").isdigit()
        or not low <= int(value[:20]) <= high
    ):
        raise invalid_request(
            f"the header {header} must be an integer from {low} to {high}", code="invalid_header"
        )
    return int(value)


def _request_name(headers: Mapping[str, str]) -> str:
    """Return the client's `x-request-id` if it is fit for logs and headers, else a new one."""
    given = headers.get("x-request-id", "")
    return (
        given if 0 < len(given) <= 128 and given.isascii() and given.isprintable() else secrets.token_hex(16)
    )


def _log_fields(call: Call) -> dict[str, str]:
    return request_fields("", call.x_request_id, call.headers.get("traceparent", ""))
