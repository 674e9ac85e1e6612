"""What control plans: replicas of each stage, why, and within which policy."""

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
        max: Replicas at most; 0 for a stage that no request passes.
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
        max_context: Positions of a request at most, beyond which the gateway refuses it; None for no limit.
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
    max_context: int | None = None
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
