"""What the shells need of the world outside: small Protocols, one contract suite for each."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from orchestrator.core.observed import Node
from orchestrator.core.pools import Admit, Inform, Move, Pod, Pool, Scale
from orchestrator.core.types import Reason, Replica
from stages.reply import LossCause, Reply
from stages.types import Job, Stage


class DispatchResult(StrEnum):
    """What became of a request for a slot."""

    OK = "ok"
    FULL = "full"
    DRAINING = "draining"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchOrder:
    """One attempt on one replica.

    Attributes:
        gateway: Who accepted the request and hears of it.
        tokens: Work that it adds to the replica's pending tokens.
        kv_bytes: KV cache that it will hold.
        alone: It waits until the replica is idle and keeps others away until it is done.
        ttl_s: Seconds until the request can be forgotten, whatever happens.
    """

    replica_id: str
    job: Job
    gateway: str
    tokens: int
    kv_bytes: int
    alone: bool
    ttl_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredReplica:
    """A registry entry: what the router needs, and the facts that people and metrics want besides.

    Attributes:
        facts: What the replica said of itself at registration: pid, host, labels.
        load: Its latest `EngineLoad` and meter readings.
    """

    replica: Replica
    facts: Mapping[str, Any]
    load: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The registry at one moment.

    Attributes:
        gateways: The last report of each live gateway, by id.
        lapsed_replicas: Ids whose lease has run out and that nobody has fenced yet.
        lapsed_gateways: Likewise.
        memory_usage: Fraction of the ledger's memory in use, 0.0 if it has no bound.
    """

    replicas: tuple[RegisteredReplica, ...] = ()
    gateways: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    lapsed_replicas: tuple[str, ...] = ()
    lapsed_gateways: tuple[str, ...] = ()
    memory_usage: float = 0.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event of a reply stream: which attempt it belongs to, and what happened."""

    job_key: str
    reply: Reply


class Observer(Protocol):
    """Hears what happens to hops, for metrics. Called on the event loop: it must be quick."""

    def arrived(self, stage: Stage, *, again: bool) -> None:
        """A hop asks for a replica; `again` if an earlier attempt of it was lost, or takes long."""

    def routed(self, stage: Stage, reason: Reason) -> None:
        """A hop got a replica."""

    def waited(self, stage: Stage, wait_s: float) -> None:
        """A hop waited so long for its replica."""

    def did(self, stage: Stage, tokens: int, cached_tokens: int = 0) -> None:
        """A stage did so much work, in its unit: image, prompt or output tokens.

        `cached_tokens` came from its cache besides, for no work.
        """

    def worked(self, stage: Stage, work_s: float) -> None:
        """A hop ended so long after it was dispatched."""


class LedgerUnavailable(ConnectionError):
    """The ledger cannot be reached, or refuses writes."""


class SignalSource(Protocol):
    """What the controller asks of a ledger. Every call may raise LedgerUnavailable and may be repeated."""

    async def snapshot(self) -> Snapshot:
        """Return the registry."""


class Ledger(Protocol):
    """The gateway's side of the ledger. Every call may raise LedgerUnavailable and may be repeated."""

    async def greet(self, gateway: str, report: bytes, first: bool) -> bool:
        """Take or renew the gateway's lease. False if it was fenced."""

    async def snapshot(self) -> Snapshot:
        """Return the registry."""

    async def dispatch(self, order: DispatchOrder) -> DispatchResult:
        """Reserve a slot, make this attempt the current one and queue its task, atomically. Idempotent."""

    async def repeat(self, order: DispatchOrder) -> bool:
        """Queue the task of a dispatched attempt again; the replica drops what it has seen.

        False if the attempt is over as far as the ledger knows: its last reply is on its way, or lost.
        """

    async def withdraw(self, job_keys: Sequence[str]) -> None:
        """Make attempts stale and have their replicas stop them."""

    async def tell(self, replica_id: str, message: str) -> None:
        """Leave word for a replica: `pause <job>` or `resume <job>`."""

    async def close(self, gateway: str, requests: Sequence[str]) -> None:
        """Forget requests that have ended, cancelling what still runs for them."""

    async def fence(self, replica_id: str, cause: LossCause, only_if_lapsed: bool) -> int | None:
        """Take a replica out and report its jobs as lost; return how many it held. Idempotent.

        None if its lease has not lapsed after all.
        """

    async def fence_gateway(self, gateway: str, only_if_lapsed: bool) -> tuple[str, ...] | None:
        """Take a gateway out, cancel its requests everywhere and return their ids. Idempotent.

        None if its lease has not lapsed after all.
        """

    def replies(self, gateway: str) -> AsyncIterator[Sequence[Delivery]]:
        """Yield what arrives for a gateway, in order, each event once, across lost connections."""


PolicyVersion = tuple[int, int]
"""When the source of a policy was made, in seconds since 1970, and its revision: grows with every edit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyEdition:
    """A service's policy at one moment.

    Attributes:
        text: Of the policy file.
        beside: Text of files that the policy names, by name.
    """

    version: PolicyVersion
    text: str
    beside: Mapping[str, str] = field(default_factory=dict)


class PublishResult(StrEnum):
    """What became of an edition."""

    TAKEN = "taken"
    SAME = "same"
    OLDER = "older"


class PolicySource(Protocol):
    """Where edits of policies arrive. Every call may raise ClusterUnavailable and may be repeated."""

    def read(self, name: str) -> PolicyEdition | None:
        """Return the policy of that name as it is now; None if there is none."""


class PolicyStore(Protocol):
    """Where running processes find the policies in force. Every call may raise LedgerUnavailable."""

    async def publish(self, service: str, edition: PolicyEdition) -> PublishResult:
        """Make an edition the published one, unless a newer one is. Idempotent."""

    async def published(self, service: str) -> PolicyEdition | None:
        """Return the newest edition; None if nothing was published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """The cluster at one moment.

    Attributes:
        counts: What each pool is told to have; every pool that there is.
        pods: Their replicas.
        nodes: Those that have accelerators, less what others than us take there, and those that could be had.
        orders: How many could be had of each node pool.
        inform: What pods have to be told before they start.
        complete: Whether all of it was seen; if not, some of this is how it was, and nothing may shrink.
    """

    counts: Mapping[Pool, int]
    pods: tuple[Pod, ...] = ()
    nodes: tuple[Node, ...] = ()
    orders: Mapping[str, int] = field(default_factory=dict)
    inform: tuple[Inform, ...] = ()
    complete: bool = True


class ClusterUnavailable(ConnectionError):
    """The cluster cannot be reached, or refuses."""


class Cluster(Protocol):
    """The controller's side of the cluster. Every call may raise ClusterUnavailable and may be repeated."""

    def look(self, now_s: float) -> ClusterView:
        """Return what there is, with times on the caller's clock."""

    def admit(self, admit: Admit, now_s: float) -> None:
        """Have a gated pod start in its place, which may be an order; no change if it is gone."""

    def move(self, move: Move, now_s: float) -> None:
        """Have a pod belong to the pool of one that waits, which then goes; no change if either is gone."""

    def inform(self, inform: Inform) -> None:
        """Tell a pod its domain; no change if it is gone."""

    def scale(self, scale: Scale) -> None:
        """Set a pool's count, its victims first."""
