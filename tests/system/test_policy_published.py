"""A gateway that follows the published policy: real processes, a real Redis, no cluster."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrator.adapters.redis import RedisLedger, connect
from orchestrator.adapters.redis_policies import RedisPolicies
from orchestrator.ports import PolicyEdition, PublishResult
from stages.free_ports import free_port
from tests.fakes.redis_process import RedisProcess
from tests.system.harness import ROOT, question, until

pytestmark = pytest.mark.slow  # real processes, for seconds each

TINY = (ROOT / "policies/tiny.yaml").read_text()
LONG = question("x" * 5_000)


def limited_to(body_mb: float) -> str:
    return TINY.replace("queue_s: 10", f"queue_s: 10, limits: {{body_mb: {body_mb}}}")


class Gateway:
    """One gateway process as a pod starts it; `begin` after `end` is a restart of its container."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self._redis_url, self._process = redis_url, None
        self._url = f"http://127.0.0.1:{free_port()}"
        mounted = folder / "policy.yaml"
        mounted.write_text(TINY)
        (folder / "blobs").mkdir()
        self._config = {
            "gateway_id": "pod.",
            "host": "127.0.0.1",
            "port": int(self._url.rpartition(":")[2]),
            "metrics_port": 0,
            "redis_url": redis_url,
            "policy_file": str(mounted),
            "policy_published": True,
            "policy_kept": str(folder / "kept.json"),
            "blobs": {"directory": str(folder / "blobs")},
        }

    def begin(self) -> None:
        environment = {**os.environ, "TERCET_GATEWAY": json.dumps(self._config)}
        command = [sys.executable, "-m", "orchestrator"]
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment)
        until("the gateway answers", lambda: self.ready() is not None)

    def end(self) -> None:
        self._process.terminate()
        assert self._process.wait(30) == 0

    def ready(self) -> dict[str, Any] | None:
        """Return what `/ready` says; None while nobody answers."""
        try:
            return httpx.get(f"{self._url}/ready", verify=False, trust_env=False).json()
        except httpx.TransportError:
            return None

    def status_of_a_long_request(self) -> int:
        """Return 413 where 5 kB are too much, else 429 or 503: there are no replicas."""
        url = f"{self._url}/v1/chat/completions"
        return httpx.post(url, json=LONG, verify=False, trust_env=False).status_code

    def version(self) -> list[int] | None:
        """Return the version that the gateway tells others it goes by; None for the mounted file."""

        async def look() -> list[int] | None:
            client = connect(self._redis_url)
            (report,) = (await RedisLedger(client).snapshot()).gateways.values()
            await client.aclose()
            return report.get("policy_version")

        return asyncio.run(look())

    def publish(self, version: int, text: str) -> PublishResult:
        async def publish() -> PublishResult:
            client = connect(self._redis_url)
            result = await RedisPolicies(client).publish(
                "tiny", PolicyEdition(version=(1, version), text=text)
            )
            await client.aclose()
            return result

        return asyncio.run(publish())


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    folder = tmp_path / "gateway"
    folder.mkdir()
    with RedisProcess(tmp_path) as redis:
        running = Gateway(folder, redis.url)
        running.begin()
        yield running
        running.end()


def test_a_published_policy_is_in_force_in_seconds_and_after_a_restart(gateway: Gateway) -> None:
    """Though what is mounted is older: kubelets take a minute over an edit."""
    assert gateway.status_of_a_long_request() != 413
    assert gateway.version() is None
    gateway.publish(2, limited_to(0.001))
    until("the limit holds", lambda: gateway.status_of_a_long_request() == 413, 10.0)
    until("others are told", lambda: gateway.version() == [1, 2], 10.0)
    gateway.end()
    gateway.begin()
    assert gateway.status_of_a_long_request() == 413
    assert gateway.publish(1, TINY) is PublishResult.OLDER
    gateway.publish(3, TINY)
    until("it is lifted", lambda: gateway.status_of_a_long_request() != 413, 10.0)


def test_a_published_policy_that_is_wrong_is_told_and_not_taken(gateway: Gateway) -> None:
    """The publisher would refuse it; a gateway of another release may know other fields."""
    gateway.publish(2, limited_to(0.001))
    until("the limit holds", lambda: gateway.status_of_a_long_request() == 413, 10.0)
    gateway.publish(3, TINY.replace("queue_s", "queue"))
    told = until("the mistake is told", lambda: (gateway.ready() or {}).get("policy_error"), 10.0)
    assert "policy.yaml:" in told
    assert "unknown key" in told
    assert "tercet-policy-" not in told
    assert gateway.status_of_a_long_request() == 413
