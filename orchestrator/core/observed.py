"""What control observes: samples and the cluster, and the signals that are made of them.

Per service and stage, work is counted in the stage's unit: encode in image tokens, prefill in prompt
tokens that no cache supplied, decode in output tokens. A job is one image, one prompt or one completion.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from stages.types import Stage

_ROUNDING = 1e-6
"""What replicas are worth is summed in floating point."""


class ReplicaState(StrEnum):
    """How far a replica's life has come."""

    PENDING = "pending"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSample:
    """One stage of one service at one moment; totals are since the service began and never fall.

    Attributes:
        offered_units: Total work that arrived, before admission, each request once.
        offered_jobs: Total jobs that arrived, likewise.
        done_units: Total work done.
        waited_s: Total seconds that started jobs had waited for their replica.
        started_jobs: Total jobs that started.
        busy_s: Total replica-seconds with work.
        bins: Total windows of the stage's `budget_s` that have passed.
        bin_units: Sum of the work offered over those windows.
        bin_units_squared: Sum of its squares.
        waiting_units: Work now waiting in gateways or dispatched and not begun.
        waiting_jobs: Jobs likewise.
        running_jobs: Jobs now in engines.
        kv_usage: Mean fraction of KV cache in use, 0 to 1.
        complete: Whether all who know of it were heard; if not, there may be more work than is seen.
    """

    offered_units: float = 0.0
    offered_jobs: int = 0
    done_units: float = 0.0
    waited_s: float = 0.0
    started_jobs: int = 0
    busy_s: float = 0.0
    bins: int = 0
    bin_units: float = 0.0
    bin_units_squared: float = 0.0
    waiting_units: float = 0.0
    waiting_jobs: int = 0
    running_jobs: int = 0
    kv_usage: float = 0.0
    complete: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSample:
    """One service at one moment; totals are since the service began and never fall.

    Attributes:
        at_s: When it was taken.
        requests: Total requests offered, each once.
        text_tokens: Total prompt tokens offered that are text.
        image_tokens: Total image tokens offered, cached or not.
        image_hit_tokens: Total image tokens that the embedding cache supplied.
        prompt_tokens: Total prompt tokens that reached prefill, cached or not.
        prompt_hit_tokens: Total prompt tokens that the prefix cache supplied.
        finished: Total completions that ended well.
        output_tokens: Total tokens in them.
        judged: Total requests of which it is known whether they met the SLO; a refusal did not.
        attained: Total of those that did.
        ttft_ratio: 99th percentile of TTFT over its target in the last minute or so; None if unknown.
        tpot_ratio: Likewise for the mean time per output token.
        stages: Every stage.
    """

    at_s: float
    requests: int = 0
    text_tokens: float = 0.0
    image_tokens: float = 0.0
    image_hit_tokens: float = 0.0
    prompt_tokens: float = 0.0
    prompt_hit_tokens: float = 0.0
    finished: int = 0
    output_tokens: float = 0.0
    judged: int = 0
    attained: int = 0
    ttft_ratio: float | None = None
    tpot_ratio: float | None = None
    stages: Mapping[Stage, StageSample]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine with accelerators.

    Attributes:
        hardware: Type of its accelerators.
        accelerators: How many it has, used or not.
        domain: Values of the topology levels, widest first: zone, block, rack as the user names them.
        ready: Whether new replicas may go there.
        node_pool: Of a node that nobody has ordered yet: who would make it. Empty for all others.
    """

    node_id: str
    hardware: str
    accelerators: int
    domain: tuple[str, ...] = ()
    ready: bool = True
    node_pool: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedReplica:
    """A replica as the cluster has it.

    Attributes:
        tp: Accelerators it takes, all on one node.
        node_id: Where it runs; empty while it has no node.
        group: Deployment group; replicas of a group keep the levels that their edges require.
        failed: Whether it has said that it cannot start.
        since_s: When it came into its state.
        pending_units: Work it still has; a drained replica with the least goes first.
    """

    replica_id: str
    service: str
    stage: Stage
    hardware: str
    tp: int
    node_id: str
    group: str = ""
    state: ReplicaState = ReplicaState.READY
    failed: bool = False
    since_s: float = 0.0
    pending_units: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All that a decision looks at.

    Attributes:
        services: Latest sample by service; None if none was to be had.
        replicas: Every replica of every service.
        nodes: Every node of every cluster, and those that could be ordered (`core.orders`).
        quotas: Accelerators of all services together at most, by hardware type; no limit for others.
        orders: How many of the nodes that it offers each node pool would make at most, by its name.
    """

    services: Mapping[str, ServiceSample | None]
    replicas: tuple[PlacedReplica, ...] = ()
    nodes: tuple[Node, ...] = ()
    quotas: Mapping[str, int] = field(default_factory=dict)
    orders: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSignals:
    """What a scaling policy knows of one stage. Rates are per second, smoothed.

    Attributes:
        ready: Replicas that take work.
        coming: Replicas pending or starting, for no longer than `pending_timeout_s`.
        rate: Units per second that one replica gets done when saturated, from the profile at the
            present mix; 0.0 if the profile has none.
        job_s: Mean seconds of one job on one replica.
        offered: Units offered.
        done: Units done.
        waiting_units: Backlog now.
        waiting_jobs: Jobs in it.
        variability: ca² + cs² of the work, from its index of dispersion over `budget_s`.
        utilisation: Fraction of ready replica-seconds with work, 0 to 1; None if unknown.
        wait_s: Mean wait of jobs that started lately; None if none did.
        budget_s: The policy's.
        kv_usage: 0 to 1.
        fresh: Whether this stage's samples have come as they should; if not, it may not shrink.
        worth: Of all replicas, in those of the stage's first hardware class; None: each is one of these.
        heaviest: The most that one of them is worth.
    """

    ready: int
    coming: int
    rate: float
    job_s: float
    offered: float = 0.0
    done: float = 0.0
    waiting_units: float = 0.0
    waiting_jobs: float = 0.0
    variability: float = 2.0
    utilisation: float | None = None
    wait_s: float | None = None
    budget_s: float
    kv_usage: float = 0.0
    fresh: bool = True
    worth: float | None = None
    heaviest: float = 1.0

    @property
    def replicas(self) -> int:
        """The lowest plan that gives up none of those that take work or soon will.

        Plans count replicas of the first hardware class; several weaker ones may stand in for one of these.
        """
        if self.worth is None or not self.ready + self.coming:
            return self.ready + self.coming
        return max(1, math.floor(self.worth - self.heaviest + _ROUNDING) + 1)

    @property
    def capacity(self) -> float:
        """Units per second of all replicas."""
        return self.rate * (self.ready + self.coming if self.worth is None else self.worth)

    @property
    def ready_worth(self) -> float:
        """What the replicas that take work are worth on average of all, in those of the first class."""
        if self.worth is None or not self.ready:
            return float(self.ready)
        return self.ready * self.worth / (self.ready + self.coming)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What a scaling policy knows of one service. Rates are per second, smoothed.

    Attributes:
        fresh: Whether samples have come as they should; if not, nothing may shrink.
        idle: No request was offered for `idle_s` and none is in the system.
        requests: Requests offered.
        text_tokens: Text tokens offered.
        image_tokens: Image tokens offered.
        embedding_hits: Fraction of image tokens that the embedding cache supplies, h_E.
        prefix_hits: Fraction of prompt tokens that the prefix cache supplies, h_KV.
        output_tokens: Mean completion tokens.
        prefill_tokens: Mean prompt tokens that prefill computes for a request, w_P.
        attainment: Fraction of lately judged requests that met the SLO; None if none was judged.
        ttft_ratio: See `ServiceSample`.
        tpot_ratio: See `ServiceSample`.
        stages: Every stage.
    """

    fresh: bool
    idle: bool = False
    requests: float = 0.0
    text_tokens: float = 0.0
    image_tokens: float = 0.0
    embedding_hits: float = 0.0
    prefix_hits: float = 0.0
    output_tokens: float = 1.0
    prefill_tokens: float = 1.0
    attainment: float | None = None
    ttft_ratio: float | None = None
    tpot_ratio: float | None = None
    stages: Mapping[Stage, StageSignals]
