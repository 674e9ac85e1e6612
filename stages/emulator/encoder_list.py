"""The list of encoders that an SGLang server in `--language-only` keeps behind a port of its own (0.5.23)."""

from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stages.emulator.json_answer import json_answer

_NO_URL = {"error": "Missing or empty 'url' field"}


def list_app(urls: list[str]) -> Starlette:
    """Return the ASGI application of the small server that keeps `urls`, a list of encoders."""

    async def listed(request: Request) -> Response:
        return json_answer({"encoder_urls": urls})

    async def register(request: Request) -> Response:
        url = _url(await request.body())
        if url and url not in urls:
            urls.append(url)
        return Response("OK") if url else json_answer(_NO_URL, 400)

    async def unregister(request: Request) -> Response:
        url = _url(await request.body())
        if url in urls:
            urls.remove(url)
        return Response("OK") if url else json_answer(_NO_URL, 400)

    async def health(request: Request) -> Response:
        return Response("OK")

    return Starlette(
        routes=[
            Route("/health", health, methods=["GET"]),
            Route("/list_encoder_urls", listed, methods=["GET"]),
            Route("/register_encoder_url", register, methods=["POST"]),
            Route("/unregister_encoder_url", unregister, methods=["DELETE"]),
        ]
    )


def _url(data: bytes) -> str:
    return str(msgspec.json.decode(data, type=dict[str, Any]).get("url") or "")
