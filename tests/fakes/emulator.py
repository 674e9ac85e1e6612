"""Emulated engines in threads of the test's own process."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from stages.emulator.config import EmulatorConfig, EngineTiming, Role
from stages.emulator.faults import Faults
from stages.emulator.run import Address, Emulator


class Emulated:
    """A running engine: its address, and questions to it."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.url = address.url
        # No connection is kept: the engine closes one that was idle, maybe just when it is used again.
        limits = httpx.Limits(max_keepalive_connections=0)
        self.http = httpx.Client(base_url=address.url, timeout=20.0, limits=limits, trust_env=False)

    def state(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.http.get("/emulator/state").json()
        return answer

    def set_faults(self, **faults: object) -> None:
        self.http.post("/emulator/faults", json=faults).raise_for_status()

    def chat(self, body: dict[str, Any], **headers: str) -> httpx.Response:
        return self.http.post("/v1/chat/completions", json=body, headers=headers)


@contextmanager
def emulated(
    config: EmulatorConfig, timing: EngineTiming | None = None, faults: Faults | None = None
) -> Iterator[Emulated]:
    """Run an engine on free ports of loopback until the block ends."""
    emulator = Emulator(config, timing, faults)
    ready: Future[Address] = Future()

    def serve() -> None:
        try:
            asyncio.run(emulator.run(ready.set_result))
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    thread = threading.Thread(target=serve, name=f"emulated-{config.role}", daemon=True)
    thread.start()
    engine = Emulated(ready.result(timeout=10.0))
    try:
        with engine.http:
            yield engine
    finally:
        emulator.stop()
        thread.join(timeout=10.0)


@contextmanager
def emulated_epd(folder: Path, **fields: Any) -> Iterator[dict[Role, Emulated]]:
    """Run an engine of each role; `fields` are of all their configurations, `folder` of embeddings."""
    with (
        emulated(EmulatorConfig(role=Role.ENCODE, ec_dir=str(folder), **fields)) as encode,
        emulated(EmulatorConfig(role=Role.PREFILL, ec_dir=str(folder), **fields)) as prefill,
        emulated(EmulatorConfig(role=Role.DECODE, ec_dir=str(folder), **fields)) as decode,
        emulated(EmulatorConfig(role=Role.AGGREGATED, ec_dir=str(folder / "own"), **fields)) as aggregated,
    ):
        yield {
            Role.ENCODE: encode,
            Role.PREFILL: prefill,
            Role.DECODE: decode,
            Role.AGGREGATED: aggregated,
        }
