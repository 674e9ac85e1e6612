"""A contender: a process of its own that holds one way to send a request, driven over pipes.

Each has its own process so that what one driver does to its interpreter (threads, collections) cannot touch
another, and so that the driver's processor time can be told apart. `python -m bench.contender NAME` is the
child; `Contender` the parent's end.
"""

import asyncio
import os
import select
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import msgspec
import uvloop

from bench.images import png, question, words
from bench.load import Send, Window, closed_loop, open_loop
from bench.processes import Processes
from cli.pressure.sse import Client, chat_request

_PATIENCE_S = 90.0


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """One window of load: open loop at `rate_per_s`, or closed loop at `concurrency` if that is set."""

    duration_s: float
    rate_per_s: float = 0.0
    concurrency: int = 0
    seed: int = 0


class Contender:
    """A running contender."""

    def __init__(self, processes: Processes, name: str, kind: str, environment: Mapping[str, str]) -> None:
        """Start it; returns when it can take load."""
        command = [sys.executable, "-m", "bench.contender", kind]
        self.name = name
        self._processes = processes
        self._process_name = f"driver-{name}"
        self._process = processes.start(self._process_name, command, environment, piped=True)
        self._read()

    @property
    def pid(self) -> int:
        """Of the driver."""
        return self._process.pid

    def run(self, command: Command) -> Window:
        """Run one window.

        Raises:
            RuntimeError: The contender has ended or hangs.
        """
        assert self._process.stdin
        self._process.stdin.write(msgspec.json.encode(command) + b"\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._read(), type=Window)

    def _read(self) -> bytes:
        assert self._process.stdout
        if not select.select([self._process.stdout], [], [], _PATIENCE_S)[0]:
            raise RuntimeError(f"{self.name} hangs")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended:\n{self._processes.output(self._process_name)[-2000:]}")
        return line


async def serve(opened: AbstractAsyncContextManager[Send]) -> None:
    """Answer commands from standard input until it ends."""
    # What a library prints must not mix with the answers.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    async with opened as send:
        answers.write(b"ready\n")
        while line := await asyncio.to_thread(sys.stdin.buffer.readline):
            command = msgspec.json.decode(line, type=Command)
            if command.concurrency:
                window = await closed_loop(send, command.concurrency, command.duration_s)
            else:
                window = await open_loop(send, command.rate_per_s, command.duration_s, command.seed)
            answers.write(msgspec.json.encode(window) + b"\n")


@asynccontextmanager
async def _direct() -> AsyncIterator[Send]:
    from bench.direct import direct_gateway
    from orchestrator.policy import load_policy
    from stages.blob_host import BlobConfig
    from stages.blobs import open_store

    blobs = open_store(BlobConfig(directory=os.environ["BENCH_BLOBS"]).settings())
    policy = load_policy(Path(os.environ["BENCH_POLICY"]))
    async with direct_gateway(os.environ["BENCH_REDIS"], blobs, policy, png(16, 16, 0)) as gateway:
        yield gateway.serve


@asynccontextmanager
async def _http() -> AsyncIterator[Send]:
    client = Client(int(os.environ["BENCH_PORT"]))
    request = chat_request(question("noop", "hello", png(16, 16, 0), max_tokens=1, stream=True))

    async def send() -> None:
        await client.ask(request)

    try:
        yield send
    finally:
        client.close()


@asynccontextmanager
async def _celery() -> AsyncIterator[Send]:
    from bench.celery_peer import opened

    async with opened(os.environ["BENCH_REDIS"], os.environ["BENCH_CELERY"]) as send:
        yield send


@asynccontextmanager
async def _ray() -> AsyncIterator[Send]:
    from bench.ray_peer import opened

    async with opened() as send:
        yield send


@asynccontextmanager
async def _chat() -> AsyncIterator[Send]:
    client = Client(int(os.environ["BENCH_PORT"]))
    tokens, model = int(os.environ["BENCH_TOKENS"]), os.environ.get("BENCH_MODEL", "tiny")
    request = chat_request(words(tokens, model, stream=True))

    async def send() -> None:
        await client.ask(request)

    try:
        yield send
    finally:
        client.close()


@asynccontextmanager
async def _bare() -> AsyncIterator[Send]:
    from bench.bare import opened

    async with opened(os.environ["BENCH_PREFILL"], os.environ["BENCH_DECODE"]) as ask:
        tokens = int(os.environ["BENCH_TOKENS"])
        yield lambda: ask(tokens)


CONTENDERS: Mapping[str, Callable[[], AbstractAsyncContextManager[Send]]] = {
    "direct": _direct,
    "http": _http,
    "chat": _chat,
    "bare": _bare,
    "celery": _celery,
    "ray": _ray,
}


if __name__ == "__main__":
    uvloop.run(serve(CONTENDERS[sys.argv[1]]()))
