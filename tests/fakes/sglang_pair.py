"""Two servers with SGLang's routes that meet by room, prefill and decode; contract fixtures, no engine."""

import asyncio
import hashlib
import json
import threading
from typing import Any

from aiohttp import web

METRICS = """\
sglang:num_running_reqs{model_name="tiny"} 2.0
sglang:num_queue_reqs{model_name="tiny"} 3.0
sglang:token_usage{model_name="tiny"} 0.25
"""
MEETING = ("bootstrap_host", "bootstrap_port", "bootstrap_room")
PATIENCE_S = 5.0


def answer_to(messages: Any) -> list[str]:
    """Return what is said to messages: eight words that depend on all of them."""
    digest = hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()
    return [f"{digest[at : at + 4]} " for at in range(0, 32, 4)]


class SglangPair:
    """A prefill and a decode server on free ports until the end of the `with`.

    Attributes:
        bodies: What each was sent.
        version: What both say that they are.
        broken: Prefill answers 500, and so does decode when nobody comes.
    """

    def __init__(self) -> None:
        self.bodies: dict[str, list[dict[str, Any]]] = {"prefill": [], "decode": []}
        self.version = "0.5.23"
        self.broken = False
        self.urls: dict[str, str] = {}
        self._rooms: dict[int, asyncio.Event] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runners: list[web.AppRunner] = []

    def __enter__(self) -> "SglangPair":
        self._thread.start()
        for role, chat in (("prefill", self._prefill), ("decode", self._decode)):
            self.urls[role] = asyncio.run_coroutine_threadsafe(self._start(chat), self._loop).result(10.0)
        return self

    def __exit__(self, *_: object) -> None:
        for runner in self._runners:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), self._loop).result(10.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self, chat: Any) -> str:
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/health", _ok)
        app.router.add_get("/server_info", self._info)
        app.router.add_get("/metrics", _metrics)
        app.router.add_post("/v1/chat/completions", chat)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        self._runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def _info(self, _: web.Request) -> web.Response:
        return web.json_response({"version": self.version})

    async def _prefill(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies["prefill"].append(body)
        if self.broken:
            return web.json_response({"error": {"message": "out of memory"}}, status=500)
        if refusal := _unmet(body):
            return refusal
        met = self._rooms.setdefault(body["bootstrap_room"], asyncio.Event())
        await asyncio.wait_for(met.wait(), PATIENCE_S)
        return web.json_response({"choices": []})

    async def _decode(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies["decode"].append(body)
        if refusal := _unmet(body):
            return refusal
        if self.broken:
            return web.json_response({"error": {"message": "prefill did not come"}}, status=500)
        self._rooms.setdefault(body["bootstrap_room"], asyncio.Event()).set()
        words = answer_to(body["messages"])
        if not body.get("stream"):
            message = {"role": "assistant", "content": "".join(words)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return web.json_response({"choices": [choice], "usage": {"completion_tokens": len(words)}})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for number, word in enumerate(words, start=1):
            choice = {"index": 0, "delta": {"content": word}}
            choice["finish_reason"] = "stop" if number == len(words) else None
            await response.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response


def _unmet(body: dict[str, Any]) -> web.Response | None:
    missing = [name for name in MEETING if name not in body]
    if not missing:
        return None
    return web.json_response({"error": {"message": f"missing {', '.join(missing)}"}}, status=400)


async def _ok(_: web.Request) -> web.Response:
    return web.Response()


async def _metrics(_: web.Request) -> web.Response:
    return web.Response(text=METRICS)
