"""What goes wrong in a simulation, as values: each at a time, most of them for a while."""

import math
from dataclasses import dataclass

from stages.types import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLoss:
    """Replicas that run die.

    Attributes:
        at_s: When.
        stage: Of which stage; None for any.
        service: Of which service; empty for any.
        count: How many at most; which ones is drawn.
    """

    at_s: float
    stage: Stage | None = None
    service: str = ""
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLoss:
    """A node is gone, and with it its replicas and the embeddings that lie there.

    Attributes:
        at_s: When.
        for_s: After so long it is there again, empty.
        node: Its id; empty for one that is drawn from those with replicas.
    """

    at_s: float
    for_s: float = math.inf
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneLoss:
    """All nodes of a topology domain are gone; see `NodeLoss`.

    Attributes:
        domain: The name of a domain of any level; empty for one of the widest level, drawn from those with
            replicas.
    """

    at_s: float
    for_s: float = math.inf
    domain: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricLoss:
    """There are no samples of a service.

    Attributes:
        service: Of which; empty for all.
        stage: Only what its replicas say is lost, what gateways count is not; None for everything.
    """

    at_s: float
    for_s: float = math.inf
    service: str = ""
    stage: Stage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StuckProvisioner:
    """No replica that starts becomes ready before the end."""

    at_s: float
    for_s: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaCut:
    """Replicas may use fewer accelerators of a type; those that run keep theirs.

    Attributes:
        most: Accelerators of all services together at most.
    """

    at_s: float
    for_s: float = math.inf
    hardware: str
    most: int


Fault = ReplicaLoss | NodeLoss | ZoneLoss | MetricLoss | StuckProvisioner | QuotaCut

KINDS: dict[str, type[Fault]] = {
    "replica-loss": ReplicaLoss,
    "node-loss": NodeLoss,
    "zone-loss": ZoneLoss,
    "metric-loss": MetricLoss,
    "stuck-provisioner": StuckProvisioner,
    "quota": QuotaCut,
}


def kind_of(fault: Fault) -> str:
    """Return a fault's name, a key of `KINDS`."""
    return next(name for name, kind in KINDS.items() if isinstance(fault, kind))


def end_s(fault: Fault) -> float:
    """Return when a fault is over; infinite if never."""
    return math.inf if isinstance(fault, ReplicaLoss) else fault.at_s + fault.for_s
