"""`memory`: Redis stays as large as it was over thousands of requests, a tenth of which stop reading."""

import asyncio
import itertools
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import redis
import uvloop

from bench.images import png, question
from bench.paced import STEP_S, TOKENS_PER_STEP
from bench.processes import rss_bytes, wait_until
from bench.report import Figure, Say, figure
from bench.stack import Stack, stack
from cli.pressure.sse import Client, chat_request
from stages.types import Stage

_CONCURRENCY = 24
_STALLED_AT_ONCE = 24
_STALL_S = 1.0
_STALLED_TOKENS = 20_000
_SEGMENT_BYTES = 536
"""A small segment size keeps the kernel's send buffer small too, so that the gateway feels the stall."""


@dataclass(slots=True)
class _Redis:
    """Readings of redis-server."""

    used_bytes: int
    keys: int


def run(say: Say, quick: bool) -> list[Figure]:
    """Warm up, serve, wait until everything is settled, compare."""
    total = 2_000 if quick else 20_000
    environment = {STEP_S: "0.001", TOKENS_PER_STEP: "16"}
    with stack("noop", slots=64, modules={Stage.DECODE: "bench.paced"}, environment=environment) as system:
        uvloop.run(_serve(system, total // 20, lambda _done, _peak: None))
        before = _settled(system)
        used, started_s = [before.used_bytes], time.monotonic()

        def progress(done: int, reading: _Redis) -> None:
            used.append(reading.used_bytes)
            say(f"{done}/{total} requests, Redis {reading.used_bytes / 1e6:.2f} MB, {reading.keys} keys")

        uvloop.run(_serve(system, total, progress))
        wall_s = time.monotonic() - started_s
        after = _settled(system)
        gateway_mb = rss_bytes(system.processes.pid("gateway")) / 1e6
    return [
        figure("memory.redis.before", [before.used_bytes / 1e6], "MB"),
        figure("memory.redis.peak", [max(used) / 1e6], "MB"),
        figure("memory.redis.after", [after.used_bytes / 1e6], "MB"),
        figure("memory.redis.growth", [(after.used_bytes - before.used_bytes) / 1e6], "MB", goal="<= 0.5"),
        figure("memory.redis.keys.growth", [after.keys - before.keys], "keys", goal="<= 0"),
        figure("memory.gateway.rss", [gateway_mb], "MB"),
        figure("memory.rate", [total / wall_s], "req/s"),
    ]


def _settled(system: Stack) -> _Redis:
    """Read Redis when no request is left in it."""
    client = system.redis()
    wait_until("all requests are forgotten", lambda: not client.keys("tercet:request:*"), 90.0)
    # The reply stream is trimmed behind what was read, some entries late.
    return _read(client)


def _read(client: redis.Redis) -> _Redis:
    memory = client.info("memory")
    # Without what waits for the append-only file, which a rewrite of that file holds back for a moment.
    used_bytes = int(memory["used_memory"]) - int(memory["mem_aof_buffer"])
    return _Redis(used_bytes=used_bytes, keys=int(client.dbsize()))


async def _serve(system: Stack, total: int, progress: Callable[[int, _Redis], None]) -> None:
    """Serve `total` requests, every tenth of which stalls."""
    client, numbers, readings = Client(system.port), itertools.count(1), system.redis()
    image = png(16, 16, 0)
    whole = chat_request(question("noop", "hello", image, max_tokens=1, stream=True))
    endless = chat_request(question("noop", "hello", image, max_tokens=_STALLED_TOKENS, stream=True))
    stalling = asyncio.Semaphore(_STALLED_AT_ONCE)
    stalled: set[asyncio.Task[None]] = set()

    async def stall() -> None:
        async with stalling:
            await _stop_reading(system.port, endless)

    async def worker() -> None:
        while (number := next(numbers)) <= total:
            if number % max(1, total // 20) == 0:
                progress(number, _read(readings))
            if number % 10 == 0:
                async with stalling:
                    pass  # waits for room, so that the backlog of stalls stays bounded
                task = asyncio.create_task(stall())
                stalled.add(task)
                task.add_done_callback(stalled.discard)
            else:
                await client.ask(whole)

    async with asyncio.TaskGroup() as group:
        for _ in range(_CONCURRENCY):
            group.create_task(worker())
    await asyncio.gather(*stalled)
    client.close()


async def _stop_reading(port: int, request: bytes) -> None:
    """Begin to read an answer, stop, and hang up after a while."""
    loop = asyncio.get_running_loop()
    with socket.socket() as connection:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT_BYTES)
        await loop.sock_connect(connection, ("127.0.0.1", port))
        await loop.sock_sendall(connection, request)
        if not (await loop.sock_recv(connection, 1024)).startswith(b"HTTP/1.1 200"):
            raise RuntimeError("a stalled request was refused")
        await asyncio.sleep(_STALL_S)
