"""HTTP in, server-sent events out: the OpenAI routes over the pipeline."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping

import msgspec

from orchestrator.answer import Answer, Course, Relay
from orchestrator.api import ChatRequest, parse_chat
from orchestrator.api_errors import (
    ApiError,
    diverged,
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
from orchestrator.api_render import DONE, error_event, models_body
from orchestrator.api_served import parse_served_chat
from orchestrator.asgi import CLIENT_GONE, Call, ClientGone, Receive, Scope, Send
from orchestrator.core.waiting import PRIORITY_RANGE
from orchestrator.counting import Counting
from orchestrator.dispatch import DeadlinePassed
from orchestrator.fleet import Fleet
from orchestrator.hops import Request
from orchestrator.intake import Intake, media_limits
from orchestrator.keys import OPEN, ApiKey, ApiKeys
from orchestrator.ledger import LEASE_S
from orchestrator.metrics import Metrics
from orchestrator.pipeline import (
    DeadlineExpired,
    Diverged,
    Exhausted,
    InvalidRequest,
    Pipeline,
    PoisonRequest,
    StoreFull,
)
from orchestrator.policy import Policy
from orchestrator.ports import LedgerUnavailable
from stages.adapters.front import ServedFront
from stages.blobs import BlobStoreFull
from stages.front import TextFront

log = logging.getLogger(__name__)

_CHAT = "/v1/chat/completions"
_LEDGER_FULL = "Redis is short of memory; requests in progress will make room"
_DEADLINE_MS = (1, 3_600_000)


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
        front: TextFront | ServedFront,
        policy: Callable[[], Policy],
        metrics: Metrics,
        counting: Counting,
        *,
        keys: ApiKeys | None,
        problems: Callable[[], Mapping[str, str]],
    ) -> None:
        self._fleet = fleet
        self._intake = intake
        self._front = front
        self._policy = policy
        self._metrics = metrics
        self._counting = counting
        self._keys = keys
        self._problems = problems
        self._started_unix_s = int(time.time())
        self._routes = {
            _CHAT: ("POST", self._chat),
            "/v1/models": ("GET", self._models),
            "/health": ("GET", self._health),
            "/ready": ("GET", self._ready),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        call = Call(scope, receive, send)
        try:
            await self._route(call)
        except ApiError as error:
            await self._refuse(call, error)
        except ClientGone:
            call.status = call.status or CLIENT_GONE
            call.notes["client_gone"] = True
        except Exception as error:
            await self._refuse(call, _api_error(call, error))
        finally:
            # Probes come every few seconds for ever.
            call.log_access(logging.INFO if call.path == _CHAT else logging.DEBUG)

    async def _refuse(self, call: Call, error: ApiError) -> None:
        code = error.code or error.type
        self._metrics.rejections.labels(code).inc()
        call.notes["error"] = code
        if call.status:  # in the midst of a stream
            await call.write(error_event(error) + DONE, more=False)
        else:
            await call.answer(error.status, error_body(error), error.headers)

    async def _route(self, call: Call) -> None:
        if call.path not in self._routes:
            raise not_found(call.path)
        allowed, handler = self._routes[call.path]
        if call.method != allowed:
            raise method_not_allowed(call.method, call.path, allowed)
        await handler(call)

    async def _health(self, call: Call) -> None:
        await call.answer(200, b"")

    async def _ready(self, call: Call) -> None:
        ready, silence_s = self._fleet.ready(), self._fleet.silence_s()
        stages = {stage: load.live_replicas for stage, load in self._fleet.loads().items()}
        problems = dict(self._problems())
        if silence_s >= LEASE_S:
            problems["ledger_error"] = f"Redis has not answered for {silence_s:.0f} s; see `tercet status`"
        body = msgspec.json.encode({"ready": ready, "live_replicas": stages, **problems})
        await call.answer(200 if ready else 503, body)

    async def _models(self, call: Call) -> None:
        self._caller(call)
        await call.answer(200, models_body([self._front.name], self._started_unix_s))

    async def _chat(self, call: Call) -> None:
        with self._counted(call):
            key = self._caller(call)
            if self._fleet.ledger_full():
                raise unavailable(_LEDGER_FULL, 1.0, code="ledger_full")
            chat = await self._read(call)
            request = self._request(call, key)
            try:
                await _unless_gone(call, self._serve(call, chat, request))
            except ClientGone:
                self._counting.gone(request, time.monotonic())
                raise
            finally:
                self._fleet.ended(request)
                self._counting.ended(request)

    async def _read(self, call: Call) -> ChatRequest:
        limit_bytes = media_limits(self._policy()).body_bytes
        async with self._intake.room(min(call.announced_bytes(limit_bytes), limit_bytes)):
            body = await call.body(limit_bytes)
            parse = parse_served_chat if isinstance(self._front, ServedFront) else parse_chat
            return parse(body, known_models={self._front.name}, default_seed=secrets.randbits(63))

    @contextlib.contextmanager
    def _counted(self, call: Call) -> Iterator[None]:
        self._metrics.running.inc()
        status = 500
        try:
            yield
            status = call.status
        except ApiError as error:
            status = error.status
            raise
        except ClientGone:
            status = CLIENT_GONE
            raise
        finally:
            self._metrics.running.dec()
            self._metrics.requests.labels(str(status)).inc()
            self._metrics.duration_s.observe(time.monotonic() - call.arrival_s)

    def _caller(self, call: Call) -> ApiKey:
        if self._keys is None:
            return OPEN
        key = self._keys.check(call.headers.get("authorization"))
        if key is None:
            raise unauthorized()
        call.notes["key"] = key.name
        return key

    def _request(self, call: Call, key: ApiKey) -> Request:
        policy = self._policy()
        own_ms = call.integer("x-tercet-deadline-ms", *_DEADLINE_MS)
        patience_s = policy.admission.deadline_s if own_ms is None else own_ms / 1000
        priority = call.integer("x-tercet-priority", -PRIORITY_RANGE, PRIORITY_RANGE) or 0
        request = Request(
            request_id=secrets.token_hex(8),
            reply_to=self._fleet.gateway,
            model=self._front.name,
            arrival_s=call.arrival_s,
            due_s=None if own_ms is None else call.arrival_s + patience_s,
            deadline_s=call.arrival_s + patience_s,
            deadline_unix_s=time.time() + patience_s,
            priority=min(priority, key.max_priority),
            x_request_id=call.x_request_id,
            traceparent=call.traceparent,
        )
        call.notes |= {"request_id": request.request_id, "priority": request.priority}
        return request

    async def _serve(self, call: Call, chat: ChatRequest, request: Request) -> None:
        with _as_api_errors(call):
            async with asyncio.timeout_at(request.deadline_s), self._intake.take(chat, request) as work:
                pipeline = Pipeline(self._fleet.hops, self._fleet.prefixes, request, work)
                course = Course(call, request, work, self._metrics, self._counting)
                if isinstance(self._front, ServedFront):
                    await Relay(call, chat, pipeline, course).send()
                else:
                    await Answer(call, chat, work, pipeline, self._front, course).send()


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
        case Diverged():
            return diverged(str(error))
        case PoisonRequest():
            return poison_request(call.x_request_id)
        case BlobStoreFull() | StoreFull():
            return unavailable("the blob store is full; requests in progress will make room", 1.0)
        case LedgerUnavailable():
            return unavailable("Redis cannot be reached; see `tercet status`", 1.0)
        case Exhausted():
            return unavailable("replicas keep failing; see `tercet status`", 1.0)
    log.error("request failed", exc_info=error, extra=call.log_fields())
    return internal_error(call.x_request_id)


async def _unless_gone(call: Call, work: Coroutine[None, None, None]) -> None:
    """Do the work, and cancel it if the client closes its connection."""
    serving = asyncio.ensure_future(work)
    listening = asyncio.ensure_future(call.until_gone())
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
