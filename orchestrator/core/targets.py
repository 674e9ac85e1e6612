"""Deployment targets as values: where a stage can run, what it may do there and what that costs.

`data/deployment_targets.yaml` holds the figures, with their sources. Money is US dollars.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

HOURS_PER_MONTH = 730.0
SECONDS_PER_MONTH = HOURS_PER_MONTH * 3600.0


class TargetKind(StrEnum):
    """What a customer of a cloud would call it."""

    SERVERLESS_CPU = "serverless-cpu"
    SERVERLESS_GPU = "serverless-gpu"
    MANAGED_ENDPOINT = "managed-endpoint"
    CONTAINER_SERVICE = "container-service"
    KUBERNETES_POOL = "kubernetes-pool"


class Span(NamedTuple):
    """Seconds that vary from start to start, taken as uniform between two bounds."""

    low_s: float
    high_s: float

    @property
    def mean_s(self) -> float:
        """The middle."""
        return (self.low_s + self.high_s) / 2.0

    def at(self, quantile: float) -> float:
        """Return the seconds that this fraction, 0 to 1, of the starts stays within."""
        return self.low_s + quantile * (self.high_s - self.low_s)

    def plus(self, other: "Span") -> "Span":
        """Return the bounds of one start after the other."""
        return Span(self.low_s + other.low_s, self.high_s + other.high_s)


INSTANT = Span(0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A rented machine.

    Attributes:
        hardware: Accelerator type by the name that profiles use; "cpu" if it has none.
        accelerators: How many; 0 without.
        memory_bytes: Of one accelerator; of the machine if it has none.
        vcpus: For work on processors; > 0 if there are no accelerators.
        usd_per_h: On demand.
        network_bytes_per_s: In each direction; 0.0 to take what its target says.
    """

    name: str
    hardware: str
    accelerators: int
    memory_bytes: float
    vcpus: float
    usd_per_h: float
    network_bytes_per_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """Processors and memory that one call has for itself, billed while it runs.

    Attributes:
        memory_bytes: At most, and what we take: processors grow with it, so it costs no more per call.
        vcpus: That come with this memory.
        usd_per_s: While a call runs or its environment starts, at this memory.
        usd_per_call: On top.
    """

    memory_bytes: float
    vcpus: float
    usd_per_s: float
    usd_per_call: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one call may do, infinite if nothing bounds it.

    Attributes:
        call_s: Duration of a call that answers in one piece.
        stream_s: Duration of a call that streams its answer; 0.0 if calls cannot stream.
        request_bytes: Of a call, where the target gives replicas no address of their own.
        response_bytes: Of an answer in one piece, likewise.
        concurrency: Calls at once.
    """

    call_s: float = math.inf
    stream_s: float = math.inf
    request_bytes: float = math.inf
    response_bytes: float = math.inf
    concurrency: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One way to run a stage in a cloud.

    Attributes:
        offered: False for a kind of target that a cloud does not have; the rest is then without meaning.
        function: Set if calls are billed; then there are no machines.
        machines: Types to choose from.
        shares_machines: Whether other stages' replicas can fill the accelerators that one leaves over, so
            that a replica costs its share; if not, machines are rented whole.
        direct: Whether replicas can pull tensors from one another. If not, they have to travel in calls.
        usd_per_month: Whatever the load, such as for a control plane.
        usd_per_gb: For each 10^9 bytes in and out of calls.
        start_s: From the decision until the container runs, on a machine that has to be provisioned.
        idle_s: Seconds without calls after which it is scaled to zero; infinite if it never is.
        load_bytes_per_s: At which weights are read; 0.0 to take the model's measured times.
        payload_bytes_per_s: At which a call's input comes in, infinite not to count it; where replicas pull
            it, that of their machines' network goes first.
    """

    name: str
    kind: TargetKind
    title: str
    offered: bool = True
    function: Function | None = None
    machines: tuple[Machine, ...] = ()
    shares_machines: bool = False
    direct: bool = False
    usd_per_month: float = 0.0
    usd_per_gb: float = 0.0
    limits: Limits = Limits()
    start_s: Span = INSTANT
    idle_s: float = math.inf
    load_bytes_per_s: float = 0.0
    payload_bytes_per_s: float = math.inf
