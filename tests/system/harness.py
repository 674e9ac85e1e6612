"""A whole system of real processes, started as a person would start it."""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import redis
from PIL import Image

from stages.free_ports import free_port
from stages.tiny.data import heldout_digit

# Clients here take `verify=False`: they speak plain HTTP to this machine, and loading the certificate
# authorities, which TLS alone would need, costs each new client tens of milliseconds.

ROOT = Path(__file__).parents[2]
INJECT = Path(__file__).parent / "inject"


def until(what: str, check: Callable[[], Any], deadline_s: float = 30.0) -> Any:
    """Poll until `check` returns something true, and return that."""
    end_s = time.monotonic() + deadline_s
    while time.monotonic() < end_s:
        found = check()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {deadline_s} s: {what}")


def digit_png(index: int, size_px: int = 96) -> tuple[bytes, int]:
    rgb, label = heldout_digit(index, size_px)
    out = BytesIO()
    Image.fromarray(rgb).save(out, "PNG")
    return out.getvalue(), label


def data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def question(text: str, *urls: str, **fields: Any) -> dict[str, Any]:
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    content = [{"type": "text", "text": text}, *images]
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], **fields}


def digit_question(index: int, **fields: Any) -> dict[str, Any]:
    return question("what digit is shown ?", data_url(digit_png(index)[0]), **fields)


@dataclass
class System:
    """`tercet up` and what a test does to it."""

    folder: Path
    replicas: str = ""
    slow: Mapping[str, float] = field(default_factory=dict)
    poison: Mapping[str, Any] = field(default_factory=dict)
    policy: Path | None = None
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    start_s: float = 60.0

    def __enter__(self) -> "System":
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.state = self.folder / "state"
        command = [sys.executable, "-m", "cli", "up", "--port", str(self.port), "--state", str(self.state)]
        command += ["--metrics-port", "0"] if "--metrics-port" not in self.options else []
        command += ["--replicas", self.replicas] if self.replicas else []
        command += ["--policy", str(self.policy)] if self.policy else []
        self.output = self.folder / "up.log"
        with self.output.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *self.options], stdout=log, stderr=log, cwd=ROOT, env=self._environment()
            )
        try:
            until("ready", self._is_ready, self.start_s)
        except AssertionError:
            self.process.kill()
            raise AssertionError(self.output.read_text() + self.logs()) from None
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(60)

    def _environment(self) -> dict[str, str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", **self.environment}
        if self.slow or self.poison:
            environment["PYTHONPATH"] = f"{INJECT}{os.pathsep}{ROOT}"
            environment["TERCET_TEST_SLOW"] = json.dumps(self.slow)
            environment["TERCET_TEST_POISON"] = json.dumps(self.poison)
        return environment

    def _is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(self.output.read_text())
        return f"ready {self.url}" in self.output.read_text()

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted((self.state / "logs").glob("*.log")))

    def supervisor(self) -> dict[str, Any]:
        return json.loads((self.state / "supervisor.json").read_text())

    def processes(self, kind: str) -> list[dict[str, Any]]:
        return [process for process in self.supervisor()["processes"] if process["kind"] == kind]

    def pid(self, kind: str, number: int = 0) -> int:
        return int(until(f"{kind} runs", lambda: self.processes(kind)[number]["pid"]))

    def signal(self, kind: str, number: signal.Signals, which: int = 0) -> int:
        pid = self.pid(kind, which)
        os.kill(pid, number)
        return pid

    def restarted(self, kind: str, old_pid: int, which: int = 0) -> None:
        """Wait until another process has taken the place of `old_pid` and the system is ready."""
        until(f"{kind} restarts", lambda: self.processes(kind)[which]["pid"] not in (None, old_pid))
        until("ready again", self.is_up, self.start_s)

    def is_up(self) -> bool:
        try:
            return (
                httpx.get(f"{self.url}/ready", timeout=5.0, trust_env=False, verify=False).status_code == 200
            )
        except httpx.TransportError:
            return False

    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.supervisor()["redis_url"], decode_responses=True)

    def keys(self) -> set[str]:
        """Redis keys with the epochs taken off."""
        return {key.rsplit(".", 1)[0] for key in self.redis().keys("*")}

    def post(self, body: Any, **options: Any) -> httpx.Response:
        with httpx.Client(base_url=self.url, timeout=60.0, trust_env=False, verify=False) as client:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            return client.post("/v1/chat/completions", content=content, **options)

    def answer(self, body: Any) -> str:
        response = self.post(body)
        assert response.status_code == 200, response.text
        return str(response.json()["choices"][0]["message"]["content"])


@dataclass(frozen=True)
class Stream:
    """What came of one streamed request.

    Attributes:
        pieces: Contents of the deltas.
        ends: Finish reasons seen; one of a whole answer.
        error: Of an error event or an error response.
        done: `[DONE]` was the last event.
    """

    pieces: tuple[str, ...]
    ends: tuple[str, ...]
    error: Any
    done: bool
    status: int

    @property
    def text(self) -> str:
        return "".join(self.pieces)


async def stream(client: httpx.AsyncClient, body: Mapping[str, Any]) -> Stream:
    pieces: list[str] = []
    ends: list[str] = []
    error, done = None, False
    async with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as response:
        if response.status_code != 200:
            await response.aread()
            return Stream((), (), response.json()["error"], False, response.status_code)
        async for line in response.aiter_lines():
            if not line:
                continue
            assert not done, "an event after [DONE]"
            event = line.removeprefix("data: ")
            if event == "[DONE]":
                done = True
                continue
            chunk = json.loads(event)
            error = chunk.get("error", error)
            for choice in chunk.get("choices", ()):
                pieces.append(choice["delta"].get("content") or "")
                if choice["finish_reason"]:
                    ends.append(choice["finish_reason"])
    return Stream(tuple(pieces), tuple(ends), error, done, 200)


def streams(
    system: System,
    bodies: list[dict[str, Any]],
    meanwhile: Callable[[], None] = lambda: None,
    timeout_s: float = 90.0,
) -> list[Stream | BaseException]:
    """Send all at once and do something while they run."""

    async def run() -> list[Stream | BaseException]:
        limits = httpx.Limits(max_connections=len(bodies))
        async with httpx.AsyncClient(
            base_url=system.url, timeout=timeout_s, limits=limits, trust_env=False, verify=False
        ) as client:
            tasks = [asyncio.create_task(stream(client, body)) for body in bodies]
            await asyncio.to_thread(meanwhile)
            return await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(run())
