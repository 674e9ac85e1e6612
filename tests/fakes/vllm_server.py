"""A server with vLLM's routes whose answers a test sets."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]

METRICS = """\
vllm:num_requests_running{engine="0",model_name="tiny"} 2.0
vllm:num_requests_waiting{engine="0",model_name="tiny"} 3.0
vllm:kv_cache_usage_perc{engine="0",model_name="tiny"} 0.25
vllm:prefix_cache_queries_total{engine="0",model_name="tiny"} 40.0
vllm:prefix_cache_hits_total{engine="0",model_name="tiny"} 8.0
vllm:cache_config_info{block_size="128",engine="0",num_gpu_blocks="256",num_cpu_blocks="None"} 1.0
"""


def event(text: str, ids: list[int], finish: str | None = None, **delta: Any) -> bytes:
    """Return one server-sent event as vLLM writes it."""
    choice = {"index": 0, "delta": {"content": text, **delta}, "finish_reason": finish, "token_ids": ids}
    body = json.dumps({"id": "chatcmpl-r", "choices": [choice]}, separators=(",", ":"))
    return f"data: {body}\n\n".encode()


class VllmServer:
    """Serves on a free port until the end of the `with`.

    Attributes:
        chat: Answers chat completions; to be set by the test.
        version: What /version says.
        bodies: Chat bodies received, with their x-request-id.
        closed: Set when a client has closed its connection in the midst of an answer.
    """

    def __init__(self) -> None:
        self.chat: Handler = _nothing
        self.version = "0.32.0"
        self.bodies: list[tuple[str, dict[str, Any]]] = []
        self.detokenized: dict[tuple[int, ...], str] = {}
        self.closed = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.url = ""

    def __enter__(self) -> "VllmServer":
        self._thread.start()
        self.url = self._wait(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def stop(self) -> None:
        """Refuse connections from now on."""
        self._wait(self._runner.cleanup())

    async def _start(self) -> str:
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/health", _ok)
        app.router.add_get("/v1/models", _ok)
        app.router.add_get("/version", self._version)
        app.router.add_get("/metrics", _metrics)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/detokenize", self._detokenize)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    def _wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10.0)

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": self.version})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append((request.headers["x-request-id"], body))
        try:
            return await self.chat(request, body)
        except (asyncio.CancelledError, ConnectionResetError):
            self.closed.set()
            raise

    async def _detokenize(self, request: web.Request) -> web.Response:
        tokens = tuple((await request.json())["tokens"])
        return web.json_response({"prompt": self.detokenized[tokens]})


def answering(body: object, status: int = 200) -> Handler:
    """Answer with a JSON body."""

    async def handler(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        text = json.dumps(body, separators=(",", ":"))
        return web.Response(text=text, status=status, content_type="application/json")

    return handler


def streaming(
    *events: bytes,
    then: Callable[[], Awaitable[None]] | None = None,
    before_last: threading.Event | None = None,
) -> Handler:
    """Answer with events, each in a write of its own, and then wait for `then`."""

    async def handler(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for number, each in enumerate(events, start=1):
            if number == len(events) and before_last:
                await asyncio.to_thread(before_last.wait, 10.0)
            await response.write(each)
        if then:
            await then()
        return response

    return handler


async def forever() -> None:
    """Never answer."""
    await asyncio.Event().wait()


async def _nothing(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
    return web.json_response({})


async def _ok(_: web.Request) -> web.Response:
    return web.Response()


async def _metrics(_: web.Request) -> web.Response:
    return web.Response(text=METRICS)
