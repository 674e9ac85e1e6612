"""Requests to one engine server from many pool threads, on one event loop of their own."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import aiohttp
import msgspec
import uvloop

from stages.adapters.bodies import Json
from stages.adapters.server import EngineServer
from stages.early import EarlySignals
from stages.engines import DeadlineExceeded, EngineRefused, InvalidWork, WorkCancelled
from stages.types import Job

CHAT = "/v1/chat/completions"

_CONNECT_S = 2.0
_IDLE_S = 4.0
"""A connection idle for longer is not used again: the uvicorn in vLLM and SGLang closes it after 5 s."""
_OURS_TO_MEND = (404, 408, 409, 425, 429)
"""Statuses below 500 that say nothing against the request: another replica, or a later try, may serve it."""

ResultT = TypeVar("ResultT")


class EngineGone(RuntimeError):
    """The server cannot be reached any more. Its worker ends, as it would with an engine that crashed."""


class Calls:
    """Sends requests for jobs, and ends them when they are cancelled or too late.

    Closing a connection is what tells a server to stop and to free what the request holds.
    """

    def __init__(self, server: EngineServer) -> None:
        self._server = server
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._gates: dict[str, asyncio.Event] = {}
        self._begun: set[asyncio.Task[None]] = set()
        self._early = EarlySignals()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="engine-calls", daemon=True)
        self._thread.start()
        self._session: aiohttp.ClientSession = self.wait(self._open())

    def wait(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Run a coroutine on the loop and return its result; blocks."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def run(self, job: Job, work: Callable[[], Coroutine[Any, Any, ResultT]]) -> ResultT:
        """Do a job's work on the loop; blocks until it is done.

        Raises:
            WorkCancelled, DeadlineExceeded: See there.
            EngineGone: The server has gone.
        """
        try:
            return self.wait(self._bounded(job, work))
        except CancelledError:
            raise WorkCancelled(job.key) from None

    def begin(self, job: Job, work: Coroutine[Any, Any, None]) -> None:
        """Start what nobody waits for; it ends with the job's deadline, or by itself."""

        async def bounded() -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(job.deadline_unix_s - time.time()):
                    await work

        def start() -> None:
            task = self._loop.create_task(bounded())
            self._begun.add(task)
            task.add_done_callback(self._begun.discard)

        self._loop.call_soon_threadsafe(start)

    def cancel(self, key: str) -> None:
        """End the job with this key; remember unknown keys."""
        self._loop.call_soon_threadsafe(self._cancel, key)

    def pause(self, key: str, paused: bool) -> None:
        """Stop reading the answer to the job with this key, or go on; remember unknown keys."""
        self._loop.call_soon_threadsafe(self._pause, key, paused)

    def close(self) -> None:
        """End every job as cancelled, and the loop."""
        if self._thread.is_alive():
            self.wait(self._close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    async def answer(self, path: str, body: bytes, request_id: str) -> bytes:
        """Return the body of a successful answer.

        Raises:
            InvalidWork, EngineRefused, EngineGone: See `_raise_for`.
        """
        async with self.open(path, body, request_id) as response:
            return await response.read()

    @asynccontextmanager
    async def open(self, path: str, body: bytes, request_id: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield a successful answer whose body is still to be read; `path` may be another server's address.

        Raises:
            InvalidWork: The server finds the request wrong.
            EngineRefused: It failed, fell silent, or broke the connection while it lives; or it is another
                server than ours, whose end is no reason for our worker to end.
            EngineGone: It has gone.
        """
        headers = {"content-type": "application/json", "x-request-id": request_id}
        try:
            async with self._session.post(path, data=body, headers=headers) as response:
                await _raise_for(response)
                yield response
        except aiohttp.ServerTimeoutError as error:
            raise EngineRefused(f"{path} was silent for {self._server.silence_s:g} s: {error}") from None
        except (aiohttp.ClientError, OSError) as error:
            if path.startswith("/"):
                await self._raise_if_gone(error)
            raise EngineRefused(f"connection to {path} lost: {error}") from None

    async def get(self, path: str, timeout_s: float) -> bytes:
        """Return the answer to a question about the server itself.

        Raises:
            aiohttp.ClientError, TimeoutError: There was none.
        """
        return await self.ask("GET", path, None, timeout_s)

    async def ask(
        self, method: str, path: str, body: Json | None, timeout_s: float, *, or_refusal: bool = False
    ) -> bytes:
        """Return the answer to what concerns a server and no job; `path` may be another server's address.

        Raises:
            aiohttp.ClientError, TimeoutError: There was none, or no success and `or_refusal` is false.
        """
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        async with self._session.request(
            method, path, json=body, timeout=timeout, raise_for_status=not or_refusal
        ) as response:
            return await response.read()

    async def go_on(self, job: Job) -> None:
        """Wait while the job's reader is slow."""
        await self._gates[job.key].wait()

    async def _raise_if_gone(self, cause: Exception) -> None:
        try:
            await self.get("/health", _CONNECT_S)
        except (aiohttp.ClientError, OSError) as error:
            raise EngineGone(f"{self._server.url}: {error}") from cause

    async def _bounded(self, job: Job, work: Callable[[], Coroutine[Any, Any, ResultT]]) -> ResultT:
        if job.key in self._tasks or self._early.take_cancel(job.key):
            raise WorkCancelled(job.key)
        task = asyncio.current_task()
        assert task
        self._tasks[job.key] = task
        self._gates[job.key] = gate = asyncio.Event()
        if not self._early.take_pause(job.key):
            gate.set()
        try:
            async with asyncio.timeout(job.deadline_unix_s - time.time()) as timer:
                return await work()
        except TimeoutError:
            if timer.expired():
                raise DeadlineExceeded(job.key) from None
            raise
        finally:
            del self._tasks[job.key], self._gates[job.key]

    def _cancel(self, key: str) -> None:
        task = self._tasks.get(key)
        if task is None:
            self._early.cancel(key)
        else:
            task.cancel()

    def _pause(self, key: str, paused: bool) -> None:
        gate = self._gates.get(key)
        if gate is None:
            self._early.pause(key, paused)
        elif paused:
            gate.clear()
        else:
            gate.set()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    async def _open(self) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=self._server.silence_s)
        # Slots bound what is sent at once; a limit here would be a second queue without an order.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_S)
        return aiohttp.ClientSession(
            self._server.url, connector=connector, timeout=timeout, trust_env=False, read_bufsize=2**18
        )

    async def _close(self) -> None:
        for task in (*self._tasks.values(), *self._begun):
            task.cancel()
        await self._session.close()


async def _raise_for(response: aiohttp.ClientResponse) -> None:
    """Raise what a failed answer means.

    Raises:
        InvalidWork: 4xx: the request is wrong, and the server says how.
        EngineRefused: 5xx, or a status that says nothing against the request.
    """
    if response.status == 200:
        return
    message = _message(await response.read()) or f"status {response.status}"
    if 400 <= response.status < 500 and response.status not in _OURS_TO_MEND:
        raise InvalidWork(message)
    raise EngineRefused(f"{response.status}: {message}")


def _message(body: bytes) -> str:
    """Return what an error says, in the two shapes that servers have; empty if it says nothing."""
    try:
        fields = msgspec.json.decode(body)
    except msgspec.MsgspecError:
        return body[:200].decode(errors="replace")
    inner = fields.get("error", fields) if isinstance(fields, dict) else fields
    return str(inner.get("message", "") if isinstance(inner, dict) else inner)
