"""The nouns of control: what is observed, what is planned and where it goes.

Per service and stage, work is counted in the stage's unit: encode in image tokens, prefill in prompt
tokens that no cache supplied, decode in output tokens. A job is one image, one prompt or one completion.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.core.profile import Accelerator, ModelProfile
from stages.types import Stage

PENDING_TIMEOUT_S = 900.0
"""Above the longest start of the profiles here, with the node 510 s."""


class ScaleReason(StrEnum):
    """Why a stage's count came out as it did: log field, metric label, trace column, dashboard text."""

    FIXED = "fixed"
    DEMAND = "demand"
    WITHIN_TOLERANCE = "within-tolerance"
    COOLDOWN = "cooldown"
    STABILISING = "stabilising"
    STEP_LIMIT = "step-limit"
    BOUND = "bound"
    BUDGET = "budget"
    RATIO = "ratio"
    FALLBACK_BAND = "fallback-band"
    NO_SIGNAL = "no-signal"
    NO_TRAFFIC = "no-traffic"
    FROM_ZERO = "from-zero"
    GUARDRAIL = "guardrail"
    FORECAST = "forecast"
    SCHEDULE = "schedule"
    ROLE_SWITCH = "role-switch"


class PlaceReason(StrEnum):
    """Why a replica is placed, removed or left without a place."""

    GIVEN = "given"
    """Not decided by the scheduler."""

    NEW_GROUP = "new-group"
    LESS_SCARCE = "less-scarce"
    """In a new group, as hardware of the group that had room is scarcer."""
    COMPLETES_GROUP = "completes-group"
    """The group had less of this stage than its others need."""
    EXTENDS_GROUP = "extends-group"

    NOT_STARTED = "not-started"
    """It does no work yet."""
    PLACED_ELSEWHERE = "placed-elsewhere"
    """It waited for a place, and another replica was placed instead."""
    UNBALANCED = "unbalanced"
    """Its group has more of this stage than its others need."""
    ROLE_SWITCH = "role-switch"
    """Its stage has more than it needs, and the other of prefill and decode less."""
    SCARCEST = "scarcest"
    LEAST_WORK = "least-work"

    NO_PROFILE = "no-profile"
    """No hardware type that the policy names is in the profile, or the model does not fit."""
    NO_DOMAIN = "no-domain"
    """No node has as many topology levels as an edge requires."""
    NO_FREE_ACCELERATORS = "no-free-accelerators"
    QUOTA = "quota"
    START_TIMED_OUT = "start-timed-out"
    """It was pending or starting for longer than the policy's `pending_timeout_s`."""

    GROUP_INCOMPLETE = "group-incomplete"
    """There is room for it, but not for what it would work with."""


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
    """

    node_id: str
    hardware: str
    accelerators: int
    domain: tuple[str, ...] = ()
    ready: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedReplica:
    """A replica as the cluster has it.

    Attributes:
        tp: Accelerators it takes, all on one node.
        node_id: Where it runs; empty while it has no node.
        group: Deployment group; replicas of a group keep the levels that their edges require.
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
    since_s: float = 0.0
    pending_units: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All that a decision looks at.

    Attributes:
        services: Latest sample by service; None if none was to be had.
        replicas: Every replica of every service.
        nodes: Every node of every cluster.
        quotas: Accelerators of all services together at most, by hardware type; no limit for others.
    """

    services: Mapping[str, ServiceSample | None]
    replicas: tuple[PlacedReplica, ...] = ()
    nodes: tuple[Node, ...] = ()
    quotas: Mapping[str, int] = field(default_factory=dict)


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

    @property
    def replicas(self) -> int:
        """Replicas that take work or soon will."""
        return self.ready + self.coming


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


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """How many replicas a stage should have.

    Attributes:
        replicas: Of the stage's first hardware class, pending and starting ones included.
        need: The same before rounding, bounds, steps and cooldown.
        reason: What had the last word on the count.
        trail: What had a say in it, in order; the last is the reason.
    """

    replicas: int
    need: float
    reason: ScaleReason
    trail: tuple[ScaleReason, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalePlan:
    """How many replicas each stage of a service should have."""

    stages: Mapping[Stage, StagePlan]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageBounds:
    """What control needs of one stage of a policy file.

    Attributes:
        hardware: Hardware types it may run on, best first.
        min: Replicas at least.
        max: Replicas at most.
        slots: Requests in one replica's batch.
        lead_s: The longest that a start is expected to take.
    """

    hardware: tuple[str, ...]
    tp: int
    min: int
    max: int
    slots: int
    budget_s: float
    lead_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeLevels:
    """Leading topology levels that both ends of an edge must share; 0 for none."""

    encode_prefill: int = 0
    prefill_decode: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPolicy:
    """What control needs of one service's policy file, its profile and the facts of the hardware.

    Attributes:
        kappa: 1 if image tokens also load prefill, 0 if not.
        scaling: Name of the scaling policy, a key of `core.scaling.SCALERS`.
        params: Its parameters, of the class that it declares.
        ttft_s: Target of the time to first token.
        tpot_s: Target of the mean time per output token.
        attainment: Fraction of offered requests that shall meet the targets.
        budget: Accelerators of all stages together at most; None for no limit.
        queue_s: Backlog of a stage, in seconds of its work, above which admission refuses requests.
        pending_timeout_s: A replica pending or starting for longer is taken to be stuck: it no longer counts
            as coming, and another is placed.
        levels: Topology levels, widest first, as nodes' `domain` has them.
        accelerators: Facts by type.
    """

    service: str
    kappa: int
    scaling: str
    params: object
    stages: Mapping[Stage, StageBounds]
    ttft_s: float
    tpot_s: float
    attainment: float
    budget: int | None = None
    queue_s: float = 10.0
    pending_timeout_s: float = PENDING_TIMEOUT_S
    levels: tuple[str, ...] = ()
    edges: EdgeLevels = EdgeLevels()
    profile: ModelProfile
    accelerators: Mapping[str, Accelerator]

    @property
    def switches_roles(self) -> bool:
        """Whether the engine can turn a prefill replica into a decode replica and back, and shall."""
        return bool(getattr(self.params, "role_switch", False))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalerState:
    """What a scaling policy remembers from one decision to the next; each policy has its own subclass.

    A policy that is handed another one's state, after a live edit, starts afresh.

    Attributes:
        planned: Replicas by stage as last planned; empty before the first plan.
        asked: The same before the budget clamp.
    """

    planned: Mapping[Stage, int] = field(default_factory=dict)
    asked: Mapping[Stage, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    """Start a replica.

    Attributes:
        node_id: Where; empty if no place is free, and then it stays gated.
        domain: Of the node.
    """

    service: str
    stage: Stage
    hardware: str
    tp: int
    node_id: str
    domain: tuple[str, ...] = ()
    group: str = ""
    reason: PlaceReason = PlaceReason.GIVEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove:
    """Drain a replica, then delete it."""

    replica_id: str
    service: str
    stage: Stage
    reason: PlaceReason = PlaceReason.GIVEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """Have a replica drain, then take another role in its place, with its accelerators and its weights.

    Attributes:
        stage: What it does now.
        to: What it will do; from now on it is one of that stage that is starting.
    """

    replica_id: str
    service: str
    stage: Stage
    to: Stage
    reason: PlaceReason = PlaceReason.ROLE_SWITCH


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What has to be done to the cluster, removals first."""

    remove: tuple[Remove, ...] = ()
    switch: tuple[Switch, ...] = ()
    create: tuple[Create, ...] = ()
