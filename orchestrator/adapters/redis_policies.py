"""Published policies over redis.asyncio."""

from typing import Any

import msgspec
import redis
import redis.asyncio

from orchestrator.ledger import policy_key, script
from orchestrator.ports import LedgerUnavailable, PolicyEdition, PublishResult


class _Files(msgspec.Struct, frozen=True):
    """What an edition holds, as it lies in Redis."""

    text: str
    beside: dict[str, str]


class RedisPolicies:
    """`orchestrator.ports.PolicyStore` in one Redis."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis = client
        self._publish = client.register_script(script("publish"))

    async def publish(self, service: str, edition: PolicyEdition) -> PublishResult:
        """See `PolicyStore.publish`."""
        files = msgspec.json.encode(_Files(edition.text, dict(edition.beside)))
        try:
            result = await self._publish(args=(service, *edition.version, files))
        except redis.RedisError as error:
            raise LedgerUnavailable(str(error)) from error
        return PublishResult(result.decode())

    async def published(self, service: str) -> PolicyEdition | None:
        """See `PolicyStore.published`."""
        try:
            found: Any = await self._redis.hgetall(policy_key(service))
        except redis.RedisError as error:
            raise LedgerUnavailable(str(error)) from error
        if not found:
            return None
        files = msgspec.json.decode(found[b"files"], type=_Files)
        version = int(found[b"era"]), int(found[b"revision"])
        return PolicyEdition(version=version, text=files.text, beside=files.beside)
