"""Published policies, and the ConfigMaps that they come from, in memory."""

from dataclasses import dataclass, field

from orchestrator.ports import ClusterUnavailable, LedgerUnavailable, PolicyEdition, PublishResult


@dataclass
class FakePolicies:
    """`orchestrator.ports.PolicyStore`.

    Attributes:
        away: Nobody can reach it.
    """

    editions: dict[str, PolicyEdition] = field(default_factory=dict)
    away: bool = False

    async def publish(self, service: str, edition: PolicyEdition) -> PublishResult:
        self._reach()
        held = self.editions.get(service)
        if held and held.version >= edition.version:
            return PublishResult.SAME if held.version == edition.version else PublishResult.OLDER
        self.editions[service] = edition
        return PublishResult.TAKEN

    async def published(self, service: str) -> PolicyEdition | None:
        self._reach()
        return self.editions.get(service)

    def _reach(self) -> None:
        if self.away:
            raise LedgerUnavailable("away")


@dataclass
class FakeSource:
    """`orchestrator.ports.PolicySource`.

    Attributes:
        away: Nobody can reach it.
    """

    editions: dict[str, PolicyEdition] = field(default_factory=dict)
    away: bool = False

    def read(self, name: str) -> PolicyEdition | None:
        if self.away:
            raise ClusterUnavailable("away")
        return self.editions.get(name)
