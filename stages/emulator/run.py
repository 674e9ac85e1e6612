"""An emulated engine on its sockets, until it is told to stop."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

import uvicorn
from starlette.applications import Starlette

from stages.emulator.config import EmulatorConfig, EngineTiming
from stages.emulator.encoder_list import list_app
from stages.emulator.engine import Engine
from stages.emulator.faults import FaultBoard, Faults
from stages.emulator.metrics import EngineMetrics
from stages.emulator.server import engine_app
from stages.emulator.side_channel import serve_side_channel
from stages.http_server import UnsignalledServer
from stages.http_url import http_url

if TYPE_CHECKING:
    from stages.emulator.sglang_language import Encoders


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where an engine listens.

    Attributes:
        side_port: Of its side channel; 0 if it has none.
        encoder_port: Of its list of encoders; 0 if it has none.
    """

    host: str
    port: int
    side_port: int
    encoder_port: int = 0

    @property
    def url(self) -> str:
        """Of its HTTP interface."""
        return http_url(self.host, self.port)

    @property
    def list_url(self) -> str:
        """Of its list of encoders."""
        return http_url(self.host, self.encoder_port)


class Emulator:
    """One engine with its HTTP server and its side channel."""

    def __init__(
        self,
        config: EmulatorConfig,
        timing: EngineTiming | None = None,
        faults: Faults | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        """Bind the HTTP address; port 0 takes a free one.

        Raises:
            OSError: It cannot be bound.
        """
        self._config = config
        self._timing = timing or EngineTiming()
        self._board = FaultBoard(faults or Faults())
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=2048)
        self._host = host
        self._server: UnsignalledServer | None = None

    async def run(self, ready: Callable[[Address], None]) -> None:
        """Serve until stopped; call `ready` when requests are answered.

        Raises:
            OSError: The address of the side channel, or of the list of encoders, cannot be bound.
        """
        metrics = EngineMetrics(self._config.model)
        engine = Engine(self._config, self._timing, self._board, metrics, engine_id=str(uuid4()))
        engine.take_faults()
        async with contextlib.AsyncExitStack() as stack:
            if self._config.role.moves_kv:
                side = await serve_side_channel(engine.leases, self._config.side_host, self._config.side_port)
                stack.callback(side.close)
                engine.leases.host = self._config.side_host
                engine.leases.port = side.sockets[0].getsockname()[1]
            encoders = None
            if self._config.language_only:
                encoders = await stack.enter_async_context(self._encoders())
            self._server = _server(engine_app(engine, self._board, metrics, encoders))
            loop = asyncio.create_task(engine.run())
            loop.add_done_callback(lambda _: self.stop())  # an engine without its loop would never answer
            stack.callback(loop.cancel)
            stack.callback(engine.store.evict)
            port = self._socket.getsockname()[1]
            encoder_port = encoders.port if encoders else 0
            ready(
                Address(host=self._host, port=port, side_port=engine.leases.port, encoder_port=encoder_port)
            )
            await self._server.serve(sockets=[self._socket])
            if loop.done():
                loop.result()

    @contextlib.asynccontextmanager
    async def _encoders(self) -> "AsyncIterator[Encoders]":
        """Serve a list of encoders until the block ends."""
        # Here, so that engines which call no encoders load no HTTP client.
        from stages.emulator.sglang_language import Encoders

        encoders = Encoders(self._config.side_host)
        listening = socket.create_server((self._host, self._config.encoder_port), family=self._socket.family)
        encoders.port = listening.getsockname()[1]
        server = _server(list_app(encoders.urls))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            async with encoders.open():
                yield encoders
        finally:
            server.should_exit = True
            await serving

    def stop(self) -> None:
        """Serve no longer; may be called from any thread."""
        if self._server:
            self._server.should_exit = True


def _server(app: Starlette) -> UnsignalledServer:
    return UnsignalledServer(
        uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=1,
        )
    )
