"""Owns the local processes: redis-server, one gateway, the workers."""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec

from cli.child import CRASH_LOOP, Boot, Child
from cli.engines import EMBEDDINGS
from cli.redis_server import find_redis_server, redis_command
from cli.role_files import RoleFiles
from localengine.servers import ServerCommand
from orchestrator.adapters.redis import RedisLedger, connect
from orchestrator.ledger import EXIT_FENCED
from orchestrator.policy import Policy
from orchestrator.serve import GatewayConfig, keep_policy
from stages.adapters.server import EngineServer
from stages.blob_host import BlobConfig
from stages.blobs import default_dir, open_store
from stages.engines import EXIT_ROLE_REFUSED
from stages.epoch import new_epoch
from stages.http_url import http_url
from stages.limits import EngineLimits
from stages.reply import LossCause
from stages.types import Stage
from workers.config import WorkerConfig
from workers.replica import EXIT_CONSUMER_DIED
from workers.vital import EXIT_THREAD_DIED
from workers.writer import EXIT_WRITER_DIED

log = logging.getLogger(__name__)

_RUNTIME_PREFIX = "tercet-"
_OUTSIDE_KILLS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_UNREGISTERED_S = 15.0
"""A worker that runs this long without a registry entry was fenced while stopped, or hangs at start."""
_ENGINE_START_S = 180.0
"""The same for a worker that waits until its engine server is up."""
_GRACE_S = 12.0
_DRAIN_S = 10.0
_REPORT_S = 5.0
_PATIENCE_S = 10.0
"""Between two signs of life while the system starts."""
_NOBODYS_FAULT = (0, EXIT_CONSUMER_DIED, EXIT_WRITER_DIED, EXIT_THREAD_DIED, EXIT_FENCED)
"""Exit codes of workers that ended by no request: for want of Redis or of their lease, say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """What `tercet up` was asked for.

    Attributes:
        replicas: Worker processes per stage.
        state_dir: Logs, Redis's append-only file and `supervisor.json` go here and stay.
        metrics_port: 0 for none.
        engines: Addresses of engine servers that run already, one a replica; empty for built-in engines.
        servers: Engine servers to be started here, one a replica; empty if none are.
        token_bytes: KV cache of one position, as the gateway reserves it.
    """

    policy_file: Path
    policy: Policy
    host: str
    port: int
    metrics_port: int
    replicas: Mapping[Stage, int]
    state_dir: Path
    keys_file: Path | None = None
    engines: Mapping[Stage, Sequence[str]] = field(default_factory=dict)
    servers: Mapping[Stage, Sequence[ServerCommand]] = field(default_factory=dict)
    token_bytes: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)


class StartFailed(RuntimeError):
    """The system did not come up; the message says what to look at."""


class Supervisor:
    """Starts everything, keeps it running, takes it down."""

    def __init__(self, options: UpOptions, say: Callable[[str], None]) -> None:
        self._options = options
        self._say = say
        self._stop = asyncio.Event()
        self._ledger: RedisLedger | None = None
        self._children: list[Child] = []
        self._runs: list[asyncio.Task[None]] = []
        self._reports: set[asyncio.Task[None]] = set()
        self._blob_dir = default_dir(str(options.port))
        self._blobs = BlobConfig(directory=str(self._blob_dir))
        self._redis_url = ""
        self._policy_kept = options.state_dir / "policy.json"
        self._logs = options.state_dir / "logs"
        self._roles = RoleFiles(options.state_dir / "roles", options.policy)

    @property
    def url(self) -> str:
        """Where clients go."""
        return http_url(self._options.host, self._options.port)

    async def run(self) -> None:
        """Serve until SIGINT, SIGTERM or the terminal's end, then take everything down.

        Raises:
            StartFailed: The system did not come up.
        """
        loop = asyncio.get_running_loop()
        for number in _stop_signals():
            loop.add_signal_handler(number, self._on_signal)
        with self._state_lock(), tempfile.TemporaryDirectory(prefix=_RUNTIME_PREFIX) as runtime:
            self._clear_leftovers()
            try:
                await self._start(Path(runtime))
                await self._until_ready()
                if not self._stop.is_set():
                    self._tell(f"ready {self.url}")
                watching = asyncio.create_task(self._replace_unregistered())
                await self._stop.wait()
                watching.cancel()
            finally:
                await self._take_down()
                shutil.rmtree(self._blob_dir, ignore_errors=True)
                shutil.rmtree(self._options.state_dir / EMBEDDINGS, ignore_errors=True)

    def _on_signal(self) -> None:
        if self._stop.is_set():  # asked twice: do not wait for anybody
            for child in self._children:
                child.send_signal(signal.SIGKILL)
            return
        self._stop.set()
        self._tell("stopping; once more to wait for nobody")

    def _tell(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the terminal or the reader of the pipe may be gone
            self._say(text)

    @contextlib.contextmanager
    def _state_lock(self) -> Iterator[None]:
        state = self._options.state_dir
        try:
            self._logs.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = (state / "lock").open("w")
        except OSError as error:
            raise StartFailed(f"no state can be kept in {state}: {error.strerror}; choose --state") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                message = f"another `tercet up` uses {state}; stop it, or choose another --port or --state"
                raise StartFailed(message) from None
            yield

    def _clear_leftovers(self) -> None:
        """Remove what a killed supervisor left behind: nothing of an earlier run is ever resumed."""
        shutil.rmtree(self._blob_dir, ignore_errors=True)
        self._clear_old_runtime()
        shutil.rmtree(self._options.state_dir / EMBEDDINGS, ignore_errors=True)
        self._roles.clear()
        shutil.rmtree(self._options.state_dir / "redis", ignore_errors=True)
        (self._options.state_dir / "redis").mkdir(mode=0o700)
        for old in self._logs.glob("*.log"):
            old.unlink()

    def _clear_old_runtime(self) -> None:
        with contextlib.suppress(OSError, ValueError, KeyError):
            old = json.loads((self._options.state_dir / "supervisor.json").read_text())["redis_url"]
            folder = Path(str(old).removeprefix("unix://")).parent
            if folder.parent == Path(tempfile.gettempdir()) and folder.name.startswith(_RUNTIME_PREFIX):
                shutil.rmtree(folder, ignore_errors=True)

    async def _start(self, runtime: Path) -> None:
        socket_file = runtime / "redis.sock"
        self._redis_url = f"unix://{socket_file}"
        command = redis_command(find_redis_server(), socket_file, self._options.state_dir / "redis")
        self._launch("redis", "redis", lambda: Boot(boot_id="redis", command=command, environment={}))
        client = connect(self._redis_url)
        await client.ping()
        self._ledger = RedisLedger(client)
        keep_policy(self._policy_kept, self._options.policy)
        self._launch("gateway", "gateway", self._gateway_boot)
        for stage, servers in self._options.servers.items():
            for number, server in enumerate(servers):
                self._launch(f"engine-{stage}-{number}", "engine", partial(_engine_boot, server))
        for stage, count in self._options.replicas.items():
            for number in range(count):
                name = f"{stage}-{number}"
                self._roles.begin(name, stage)
                self._launch(
                    name, stage, partial(self._worker_boot, stage, name, self._server(stage, number))
                )

    def _launch(self, name: str, kind: str, boot: Callable[[], Boot]) -> None:
        child = Child(
            name,
            kind,
            boot,
            self._logs / f"{name}.log",
            on_exit=self._on_exit,
            on_change=self._write_state,
            # Redis gets to flush its file and an engine to end its own processes; the rest has nothing worth
            # waiting for without a supervisor.
            death_signal=signal.SIGTERM if kind in ("redis", "engine") else signal.SIGKILL,
        )
        self._children.append(child)
        self._runs.append(asyncio.create_task(child.run(), name=name))

    def _gateway_boot(self) -> Boot:
        options = self._options
        config = GatewayConfig(
            gateway_id=f"gateway-0.{new_epoch()}",
            host=options.host,
            port=options.port,
            metrics_port=options.metrics_port,
            redis_url=self._redis_url,
            policy_file=str(options.policy_file),
            blobs=self._blobs,
            policy_kept=str(self._policy_kept),
            keys_file=str(options.keys_file or ""),
        )
        return self._boot(config.gateway_id, "orchestrator", "TERCET_GATEWAY", config)

    def _engine_urls(self) -> Mapping[Stage, Sequence[str]]:
        started = {stage: [one.url for one in servers] for stage, servers in self._options.servers.items()}
        return started or self._options.engines

    def _server(self, stage: Stage, number: int) -> EngineServer | None:
        """Return the engine server of a stage's replica, None if the engine is built in."""
        policy = self._options.policy
        if not policy.served:
            return None
        return EngineServer(
            kind=policy.stages[stage].engine,
            url=self._engine_urls()[stage][number],
            model=policy.model.name,
            token_bytes=self._options.token_bytes,
            encoders_called=policy.encoders_called,
            switches_roles=policy.switches_roles,
        )

    def _worker_boot(self, stage: Stage, name: str, server: EngineServer | None) -> Boot:
        policy = self._options.policy
        config = WorkerConfig(
            name=name,
            epoch=new_epoch(),
            stage=stage,
            model=policy.model.name,
            redis_url=self._redis_url,
            slots=policy.stages[stage].batch,
            blobs=self._blobs,
            grace_s=_DRAIN_S,
            limits=EngineLimits(
                max_batch=policy.stages[stage].batch, max_image_pixels=policy.admission.limits.image_px
            ),
            hardware=policy.stages[stage].hardware[0],
            server=server,
            roles=self._roles.of(name, stage),
            modalities=policy.model.modalities if policy.served else (),
        )
        return self._boot(config.replica_id, "workers", "TERCET_WORKER", config)

    def _boot(self, boot_id: str, module: str, variable: str, config: msgspec.Struct) -> Boot:
        environment = {**self._options.environment, variable: msgspec.json.encode(config).decode()}
        # -P: with -m alone, a folder named like one of our packages where `tercet up` was called would win.
        command = [sys.executable, "-P", "-m", module]
        return Boot(boot_id=boot_id, command=command, environment=environment)

    def _on_exit(self, child: Child, boot: Boot, code: int) -> None:
        if child.kind == "redis" or self._stop.is_set():
            return
        self._tell(f"{child.name} ended with {code}; starting it again")
        if code == EXIT_ROLE_REFUSED:
            self._roles.give_up(child.name)
        if child.kind != "engine":  # the ledger knows workers; an engine's ends with it
            report = asyncio.create_task(self._report_exit(child, boot, code))
            self._reports.add(report)
            report.add_done_callback(self._reports.discard)

    async def _report_exit(self, child: Child, boot: Boot, code: int) -> None:
        """Tell the ledger at once; its leases would find out by themselves, seconds later."""
        if self._ledger is None:
            return
        with _outage_logged(f"the end of {boot.boot_id} not reported"):
            async with asyncio.timeout(_REPORT_S):
                if child.kind == "gateway":
                    blobs = open_store(self._blobs.settings())
                    for request_id in await self._ledger.fence_gateway(boot.boot_id, False) or ():
                        blobs.release(request_id)
                else:
                    await self._ledger.fence(boot.boot_id, _cause(code), False)

    async def _until_ready(self) -> None:
        started_s = told_s = time.monotonic()
        async with httpx.AsyncClient(trust_env=False) as client:
            while not self._stop.is_set():
                if time.monotonic() - told_s > _PATIENCE_S:
                    told_s = time.monotonic()
                    self._tell(f"still starting, {told_s - started_s:.0f} s; logs in {self._logs}")
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get(f"{self.url}/ready", timeout=2.0)).status_code == 200:
                        return
                self._check_start(time.monotonic() - started_s)
                await asyncio.sleep(0.05)

    def _check_start(self, waited_s: float) -> None:
        for child in self._children:
            if child.quick_deaths >= CRASH_LOOP or (waited_s > 60.0 and child.state != "running"):
                told = (
                    f"{child.name} keeps ending with {child.last_exit}; its last words in {child.log_file}:"
                )
                raise StartFailed(f"{told}\n{child.last_words()}")

    async def _replace_unregistered(self) -> None:
        """Kill workers that live without a lease; their restart gets a new epoch."""
        assert self._ledger
        while True:
            await asyncio.sleep(1.0)
            with _outage_logged("registry not read"):
                snapshot = await self._ledger.snapshot()
                known = {entry.replica.replica_id for entry in snapshot.replicas} | {
                    *snapshot.lapsed_replicas
                }
                for child in self._children:
                    if self._lives_unregistered(child, known):
                        child.send_signal(signal.SIGKILL)

    def _lives_unregistered(self, child: Child, known: set[str]) -> bool:
        lived_s = time.monotonic() - child.started_s
        if child.boot is None or child.kind not in tuple(Stage) or child.state != "running":
            return False
        limit_s = _ENGINE_START_S if self._options.policy.served else _UNREGISTERED_S
        return lived_s > limit_s and child.boot.boot_id not in known

    async def _take_down(self) -> None:
        """Stop in the order of the data path, Redis last, so that what runs can finish."""
        for group in ("gateway",), tuple(Stage), ("engine",), ("redis",):
            members = [child for child in self._children if child.kind in group]
            await asyncio.gather(*(child.stop(_GRACE_S) for child in members))
            if group == ("gateway",):
                # One that had to be killed could not cancel its requests, which workers would finish first.
                for child in members:
                    if child.boot:
                        await self._report_exit(child, child.boot, 0)
        for run in self._runs:
            run.cancel()
        await asyncio.gather(*self._runs, return_exceptions=True)
        self._write_state()

    def _write_state(self) -> None:
        """Leave word for `tercet status`."""
        state = {
            "url": self.url,
            "pid": os.getpid(),
            "redis_url": self._redis_url,
            "policy": str(self._options.policy_file),
            "engines": self._engine_urls(),
            "processes": [_facts(child) for child in self._children],
        }
        target = self._options.state_dir / "supervisor.json"
        unfinished = target.with_suffix(".partial")
        unfinished.write_text(json.dumps(state))
        unfinished.replace(target)


def _facts(child: Child) -> dict[str, Any]:
    return {
        "name": child.name,
        "kind": child.kind,
        "boot_id": child.boot.boot_id if child.boot else "",
        "pid": child.pid,
        "state": child.state,
        "restarts": child.restarts,
        "quick_deaths": child.quick_deaths,
        "started_unix_s": time.time() - (time.monotonic() - child.started_s),
        "last_exit": child.last_exit,
    }


def _engine_boot(server: ServerCommand) -> Boot:
    return Boot(boot_id=server.url, command=list(server.command), environment=server.environment)


def _cause(code: int) -> LossCause:
    """Tell an outside kill, which counts against nobody, from a process that ended by its own fault."""
    return "killed" if code in _NOBODYS_FAULT or -code in tuple(map(int, _OUTSIDE_KILLS)) else "crash"


def _stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that end the system; the end of the terminal does, unless nohup said otherwise."""
    nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM) if nohup else (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def _outage_logged(what: str) -> Iterator[None]:
    try:
        yield
    except (ConnectionError, TimeoutError, OSError) as error:
        log.warning("%s: %s", what, error)
