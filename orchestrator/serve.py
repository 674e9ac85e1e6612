"""One gateway process: its parts wired together, HTTP on one port, metrics on another."""

import asyncio
import logging
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from prometheus_client import start_http_server

from orchestrator.adapters.redis import RedisLedger, connect
from orchestrator.adapters.redis_policies import RedisPolicies
from orchestrator.addresses import AllowList
from orchestrator.counting import Counting, steady_unix_s
from orchestrator.fetch import SafeFetcher
from orchestrator.fleet import Fleet
from orchestrator.gateway import Gateway
from orchestrator.intake import Intake
from orchestrator.keys import load_keys
from orchestrator.kv_rules import CurrentKvRules
from orchestrator.metrics import Metrics
from orchestrator.model_front import model_front
from orchestrator.policy import Policy, PolicyWatcher, dump_policy, restore_policy
from orchestrator.policy_copy import PolicyCopy, follow, look
from orchestrator.published import published
from orchestrator.release import BlobRelease
from stages.blob_host import BlobConfig, BlobKeeper
from stages.blobs import open_store
from stages.epoch import new_epoch
from stages.http_server import UnsignalledServer

log = logging.getLogger(__name__)

_GRACE_S = 10
_IDLE_S = 75
"""Longer than load balancers keep an idle connection (60 s), else they send on one that was just closed."""


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What one gateway process is told at start, as one JSON document.

    Attributes:
        gateway_id: New at every boot; one that ends in a dot is a name to which the process adds an epoch.
        metrics_port: 0 for none.
        policy_kept: File that holds the policy in force from one boot to the next, so that a bad edit is one
            for the next boot too; empty for none.
        policy_published: Whether it follows what `tercet publisher` publishes of the service, once there is
            something; until then the file.
        keys_file: API keys; empty for none, on loopback only.
    """

    gateway_id: str
    host: str
    port: int
    metrics_port: int
    redis_url: str
    policy_file: str
    blobs: BlobConfig
    policy_kept: str = ""
    policy_published: bool = False
    keys_file: str = ""
    log_level: str = "info"


def read_config(text: str) -> GatewayConfig:
    """Return what a process was told, with an epoch of its own if its id lacks one.

    Raises:
        msgspec.MsgspecError: The text is no configuration.
    """
    config = msgspec.json.decode(text, type=GatewayConfig)
    told = config.gateway_id
    return msgspec.structs.replace(config, gateway_id=f"{told}{new_epoch()}" if told.endswith(".") else told)


class Process:
    """A gateway and everything it needs."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._kept = Path(config.policy_kept) if config.policy_kept else None
        self._copy = PolicyCopy(Path(config.policy_file)) if config.policy_published else None
        self._policy_file = self._copy.path if self._copy else Path(config.policy_file)
        self._watcher = PolicyWatcher(self._policy_file, running=_restored(self._kept))
        settings = config.blobs.settings()
        self._blobs = open_store(settings)
        self._release = BlobRelease(self._blobs, settings)
        self._keeper = BlobKeeper(self._blobs, config.blobs)
        self._metrics = Metrics()
        self._counting = Counting(config.gateway_id, self._policy, self._metrics, steady_unix_s())
        self._fetcher = SafeFetcher(self._allow_list())

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        config = self._config
        self._keeper.start()
        client = connect(config.redis_url)
        copies = {self._policy().service: self._copy} if self._copy else {}
        await look(RedisPolicies(client), copies)
        self._take_edit()
        fleet = Fleet(
            config.gateway_id,
            RedisLedger(client),
            self._policy,
            release=self._release,
            report=self._report,
            observer=self._counting,
        )
        await fleet.join()
        if config.metrics_port:
            self._metrics.watch(fleet, self._counting)
            start_http_server(config.metrics_port, config.host, self._metrics.registry)
        server = self._server(fleet)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, setattr, server, "should_exit", True)
        serving = asyncio.create_task(server.serve())
        background = [asyncio.create_task(fleet.run()), asyncio.create_task(self._follow_policy())]
        background.append(asyncio.create_task(follow(RedisPolicies(client), copies)))
        await asyncio.wait((serving, *background), return_when=asyncio.FIRST_COMPLETED)
        for task in background:
            if task.done():  # none of them ends by itself: better no gateway than a deaf one
                task.result()
            task.cancel()
        await fleet.leave()
        await asyncio.to_thread(self._release.close)
        await asyncio.to_thread(self._keeper.stop)
        self._fetcher.close()
        await client.aclose()

    def _server(self, fleet: Fleet) -> UnsignalledServer:
        config = self._config
        model = model_front(self._policy(), self._policy_file)
        kv_rules = CurrentKvRules(self._policy_file, model.kv_bytes_per_token)
        intake = Intake(
            fleet,
            model,
            self._blobs,
            self._fetcher,
            self._policy,
            on_offer=self._counting.offered,
            on_admission=self._metrics.admitted,
            kv_rules=lambda: kv_rules.of(self._policy()),
        )
        app = Gateway(
            fleet,
            intake,
            model,
            self._policy,
            self._metrics,
            self._counting,
            keys=load_keys(Path(config.keys_file)) if config.keys_file else None,
            problems=self._problems,
        )
        return UnsignalledServer(
            uvicorn.Config(
                app,
                host=config.host,
                port=config.port,
                loop="none",
                http="httptools",
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=_GRACE_S,
                timeout_keep_alive=_IDLE_S,
            )
        )

    def _policy(self) -> Policy:
        return self._watcher.policy

    def _allow_list(self) -> AllowList:
        return AllowList.parse(self._policy().admission.fetch.allow)

    def _report(self) -> Mapping[str, Any]:
        count = published(self._policy().model.name, self._counting.count())
        version = self._copy.version if self._copy else None
        return {**self._problems(), **count, **({"policy_version": version} if version else {})}

    def _problems(self) -> Mapping[str, str]:
        found = {"policy_error": self._watcher.error, "policy_notice": self._watcher.notice}
        # /ready is open to everybody: the file's name is enough.
        folder = f"{self._policy_file.parent}/"
        return {name: text.replace(folder, "") for name, text in found.items() if text}

    async def _follow_policy(self) -> None:
        """Take policy edits, and say what became of the last one before this boot."""
        if self._problems():
            self._log_policy()
        while True:
            self._take_edit()
            await asyncio.sleep(0.25)

    def _take_edit(self) -> None:
        before = (self._watcher.error, self._watcher.notice, self._watcher.revision)
        self._watcher.refresh(time.monotonic())
        if before != (self._watcher.error, self._watcher.notice, self._watcher.revision):
            self._log_policy()
            self._fetcher.set_allow_list(self._allow_list())
            self._keep_policy()

    def _keep_policy(self) -> None:
        if self._kept:
            try:
                keep_policy(self._kept, self._watcher.policy)
            except OSError as error:
                log.warning("the policy in force is not kept for a restart: %s", error)

    def _log_policy(self) -> None:
        if self._watcher.error:
            log.error("policy edit not taken: %s", self._watcher.error)
        else:
            changes = [str(change) for change in self._watcher.changes]
            log.info("policy edit taken", extra={"changes": changes, **self._problems()})


def keep_policy(file: Path, policy: Policy) -> None:
    """Write the policy in force for a gateway's next boot; it appears whole or not at all.

    Raises:
        OSError: It could not be written.
    """
    unfinished = file.with_suffix(".partial")
    unfinished.write_bytes(dump_policy(policy))
    unfinished.replace(file)


def _restored(kept: Path | None) -> Policy | None:
    """Return the policy of the boot before, None if there is none to be had."""
    if kept is None:
        return None
    try:
        return restore_policy(kept.read_bytes())
    except (OSError, ValueError) as error:
        log.warning("no policy kept from before: %s", error)
        return None
