"""A client that takes a request through prefill and decode servers by itself: what no router can be below."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp

from bench.images import words
from stages.adapters.bodies import decode_body, prefill_body
from stages.adapters.calls import CHAT


@asynccontextmanager
async def opened(prefill: str, decode: str) -> AsyncIterator[Callable[[int], Awaitable[None]]]:
    """Yield what serves one request of so many tokens.

    Args:
        prefill: Address of a server; empty if decode's does all.
        decode: Likewise.
    """
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(tokens: int) -> None:
            body = json.loads(words(tokens, stream=True))
            params = None
            if prefill:
                async with session.post(prefill + CHAT, json=prefill_body(body, {})) as response:
                    params = (await response.json())["kv_transfer_params"]
            async with session.post(decode + CHAT, json=decode_body(body, params, {})) as response:
                response.raise_for_status()
                async for _ in response.content.iter_any():
                    pass

        yield ask
