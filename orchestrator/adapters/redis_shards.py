"""The Redis servers of a stack, for those few processes that care for all of its services."""

from collections.abc import Sequence

from orchestrator.adapters.redis import RedisLedger, connect
from orchestrator.adapters.redis_policies import RedisPolicies
from orchestrator.ports import PolicyEdition, PublishResult
from orchestrator.shards import shard_of


class RedisShards:
    """Also `orchestrator.ports.PolicyStore`: a service's policy is on the service's own shard.

    Args:
        urls: Of the shards, in their order.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self._clients = [connect(url, patient=False) for url in urls]
        self._policies = [RedisPolicies(client) for client in self._clients]

    def ledgers(self) -> list[RedisLedger]:
        """Return the ledger of each shard."""
        return [RedisLedger(client) for client in self._clients]

    async def publish(self, service: str, edition: PolicyEdition) -> PublishResult:
        """See `PolicyStore.publish`."""
        return await self._of(service).publish(service, edition)

    async def published(self, service: str) -> PolicyEdition | None:
        """See `PolicyStore.published`."""
        return await self._of(service).published(service)

    async def aclose(self) -> None:
        """Close all connections."""
        for client in self._clients:
            await client.aclose()

    def _of(self, service: str) -> RedisPolicies:
        return self._policies[shard_of(service, len(self._policies))]
