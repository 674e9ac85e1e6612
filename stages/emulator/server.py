"""The HTTP side of an emulated engine: vLLM's or SGLang's routes, and our own under /emulator."""

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stages.emulator.chat import check_model, read_chat, rendered_tokens
from stages.emulator.config import Kind, Role
from stages.emulator.dialects import Chats, SglangChats, Tokens
from stages.emulator.endpoint import AnswerEndpoint
from stages.emulator.engine import Engine
from stages.emulator.errors import EngineError, wrong_shape
from stages.emulator.faults import FaultBoard
from stages.emulator.json_answer import json_answer
from stages.emulator.media import Json
from stages.emulator.metrics import EngineMetrics
from stages.emulator.readings import Readings, SglangEncoderReadings, SglangReadings, state_of
from stages.emulator.sglang_chat import AbortBody
from stages.emulator.sglang_encoder import Encoding
from stages.emulator.sglang_role import RoleSwitch
from stages.emulator.tokens import rendered
from stages.emulator.vocabulary import detokenize, tokenize

if TYPE_CHECKING:
    from stages.emulator.sglang_language import Encoders

_USUAL_ENCODER_PORT = 8997
_METRICS_TYPE = "text/plain; version=1.0.0; charset=utf-8"

Handler = Callable[[Request], Awaitable[Response]]


class Tokenize(msgspec.Struct, kw_only=True):
    """Body of /tokenize: a text or a chat."""

    model: str | None = None
    prompt: str = ""
    messages: list[Json] | None = None


class Detokenize(msgspec.Struct, kw_only=True):
    """Body of /detokenize."""

    tokens: list[int]
    model: str | None = None


def engine_app(
    engine: Engine, board: FaultBoard, metrics: EngineMetrics, encoders: "Encoders | None" = None
) -> Starlette:
    """Return the ASGI application of an engine whose loop runs elsewhere; it calls `encoders`, if any."""
    registry = metrics.registry if engine.config.kind is Kind.VLLM else CollectorRegistry()
    registry.register(_readings(engine))
    pages = _Pages(engine, board, registry, encoders)
    own = [
        Route("/metrics", pages.metrics, methods=["GET"]),
        Route("/emulator/state", pages.state, methods=["GET"]),
        Route("/emulator/faults", pages.faults, methods=["GET"]),
        Route("/emulator/faults", _refusing(pages.set_faults), methods=["POST"]),
    ]
    return Starlette(routes=[*own, *_routes(engine, board, pages)])


def _readings(engine: Engine) -> Collector:
    if engine.config.kind is Kind.VLLM:
        return Readings(engine)
    return SglangEncoderReadings(engine) if engine.config.role is Role.ENCODE else SglangReadings(engine)


def _routes(engine: Engine, board: FaultBoard, pages: "_Pages") -> list[Route]:
    if engine.config.kind is Kind.SGLANG and engine.config.role is Role.ENCODE:
        return _sglang_encoder_routes(Encoding(engine, board), pages)
    routes = _vllm_routes if engine.config.kind is Kind.VLLM else _sglang_routes
    return [Route("/v1/models", pages.models, methods=["GET"]), *routes(engine, board, pages)]


def _vllm_routes(engine: Engine, board: FaultBoard, pages: "_Pages") -> list[Route]:
    routes = [
        Route("/v1/chat/completions", AnswerEndpoint(engine, board, Chats()), methods=["POST"]),
        Route("/tokenize", _refusing(pages.tokenize), methods=["POST"]),
        Route("/detokenize", _refusing(pages.detokenize), methods=["POST"]),
        Route("/health", pages.empty, methods=["GET"]),
        Route("/ping", pages.empty, methods=["GET", "POST"]),
        Route("/version", pages.version, methods=["GET"]),
        Route("/load", pages.load, methods=["GET"]),
    ]
    if engine.config.scale_out:
        routes += [
            Route("/v1/chat/completions/render", _refusing(pages.render), methods=["POST"]),
            Route("/inference/v1/generate", AnswerEndpoint(engine, board, Tokens()), methods=["POST"]),
        ]
    return routes


def _sglang_encoder_routes(encoding: Encoding, pages: "_Pages") -> list[Route]:
    return [
        Route("/encode", encoding.encode, methods=["POST"]),
        Route("/scheduler_receive_url", encoding.receive_url, methods=["POST"]),
        Route("/health", pages.empty, methods=["GET"]),
        Route("/health_generate", pages.empty, methods=["GET"]),
    ]


def _sglang_routes(engine: Engine, board: FaultBoard, pages: "_Pages") -> list[Route]:
    chats = SglangChats(pages.encoders)
    return [
        Route("/v1/chat/completions", AnswerEndpoint(engine, board, chats), methods=["POST"]),
        Route("/health", pages.empty, methods=["GET"]),
        Route("/health_generate", pages.empty, methods=["GET"]),
        Route("/ready", pages.empty, methods=["GET"]),
        Route("/abort_request", _refusing(pages.abort), methods=["POST"]),
        Route("/pd_role_switch", pages.role.switch, methods=["POST"]),
        Route("/server_info", pages.server_info, methods=["GET"]),
        Route("/get_server_info", pages.server_info, methods=["GET"]),
    ]


class _Pages:
    """What an engine answers beside chats."""

    def __init__(
        self, engine: Engine, board: FaultBoard, registry: CollectorRegistry, encoders: "Encoders | None"
    ) -> None:
        self.encoders = encoders
        self.role = RoleSwitch(engine)
        self._engine = engine
        self._board = board
        self._registry = registry
        self._started_unix_s = int(time.time())

    async def empty(self, request: Request) -> Response:
        return Response()

    async def version(self, request: Request) -> Response:
        return json_answer({"version": self._engine.config.release})

    async def server_info(self, request: Request) -> Response:
        """What SGLang says of itself, as far as anybody asks: its arguments, its version and its state."""
        config = self._engine.config
        facts = {
            "served_model_name": config.model,
            "context_length": config.max_model_len,
            "max_running_requests": config.max_seqs,
            "max_total_num_tokens": config.blocks * config.block_size,
            "disaggregation_bootstrap_port": self._engine.leases.port,
            "language_only": config.language_only,
            "encoder_bootstrap_port": self.encoders.port if self.encoders else _USUAL_ENCODER_PORT,
        }
        return json_answer(facts | self.role.facts() | {"version": config.release})

    async def abort(self, request: Request) -> Response:
        rid = _decoded(await request.body(), AbortBody).rid
        self._engine.abort_named(rid)
        if self.encoders:
            self.encoders.abort(rid)
        return Response()

    async def load(self, request: Request) -> Response:
        return json_answer({"server_load": self._engine.batch.running + len(self._engine.batch.waiting)})

    async def models(self, request: Request) -> Response:
        config = self._engine.config
        card = {
            "id": config.model,
            "object": "model",
            "created": self._started_unix_s,
            "owned_by": config.kind,
            "root": config.model,
            "parent": None,
            "max_model_len": config.max_model_len,
            "permission": [],
        }
        return json_answer({"object": "list", "data": [card]})

    async def metrics(self, request: Request) -> Response:
        return Response(generate_latest(self._registry), headers={"content-type": _METRICS_TYPE})

    async def tokenize(self, request: Request) -> Response:
        asked = _decoded(await request.body(), Tokenize)
        config = self._engine.config
        check_model(asked.model, config)
        if asked.messages is None:
            tokens = tokenize(asked.prompt)
        else:
            tokens = rendered_tokens(asked.messages, config, self._engine.media)
        answer = {"count": len(tokens), "max_model_len": config.max_model_len, "tokens": tokens}
        return json_answer(answer | {"token_strs": None})

    async def render(self, request: Request) -> Response:
        name = request.headers.get("x-request-id") or uuid4().hex
        body = read_chat(await request.body())
        return json_answer(rendered(body, name, self._engine.config, self._engine.media))

    async def detokenize(self, request: Request) -> Response:
        asked = _decoded(await request.body(), Detokenize)
        check_model(asked.model, self._engine.config)
        return json_answer({"prompt": detokenize(asked.tokens)})

    async def state(self, request: Request) -> Response:
        awaiting = {"awaiting": self.encoders.awaiting} if self.encoders else {}
        return json_answer(awaiting | state_of(self._engine))

    async def faults(self, request: Request) -> Response:
        return json_answer(self._board.faults)

    async def set_faults(self, request: Request) -> Response:
        try:
            self._board.faults = self._board.faults.edited(await request.body())
        except msgspec.DecodeError as error:
            raise wrong_shape("body", str(error)) from None
        self._engine.take_faults()
        return json_answer(self._board.faults)


def _refusing(handler: Handler) -> Handler:
    """Return a handler that answers an `EngineError` as the engine does."""

    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except EngineError as error:
            return Response(error.body(), error.status, media_type="application/json")

    return handle


def _decoded(data: bytes, shape: type[Any]) -> Any:
    try:
        return msgspec.json.decode(data, type=shape)
    except msgspec.DecodeError as error:
        raise wrong_shape("body", str(error)) from None
