"""The nouns of deciding: frozen values with units in their names."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from stages.types import Modality, Stage


class Reason(StrEnum):
    """Why a decision came out as it did: log field, metric label, trace column, dashboard text."""

    # tag, admit
    ADMITTED = "admitted"
    BACKLOG_FULL = "backlog-full"
    MODALITY_UNSERVED = "modality-unserved"
    NO_REPLICA = "no-replica"
    PREFILL_BACKPRESSURE = "prefill-backpressure"
    DEADLINE_EXPIRED = "deadline-expired"
    CONTEXT_LENGTH_EXCEEDED = "context-length-exceeded"
    TOO_LARGE = "too-large"
    # route
    ONLY_CANDIDATE = "only-candidate"
    CACHE_AFFINITY = "cache-affinity"
    PREFIX_HIT = "prefix-hit"
    LEAST_PENDING = "least-pending"
    MOST_FREE_KV = "most-free-kv"
    BEST_SCORE = "best-score"
    QUARANTINE = "quarantine"
    OUTSIDE_DOMAIN = "outside-domain"
    NO_CREDIT = "no-credit"
    SPARING_DECODES = "sparing-decodes"
    ALL_DRAINING = "all-draining"


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaShape:
    """What the tagger needs to know of one media item.

    Attributes:
        tokens: Embedding rows that the model's encoder makes of it.
    """

    modality: Modality
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Which requests have encode and prefill apart; the work of a stage that is not goes with the next.

    Attributes:
        encode_from: Media tokens from which encode is apart; None: never. At least one, for text brings none.
        prefill_from: Prompt tokens, media included, from which prefill is apart from decode; None: never.
    """

    encode_from: int | None = 0
    prefill_from: int | None = 0

    def stages(self, media_tokens: int, context_tokens: int) -> tuple[Stage, ...]:
        """Return the stages that a request passes, in order."""
        encode = media_tokens > 0 and _reaches(media_tokens, self.encode_from)
        prefill = _reaches(context_tokens, self.prefill_from)
        before = ((Stage.ENCODE,) if encode else ()) + ((Stage.PREFILL,) if prefill else ())
        return (*before, Stage.DECODE)

    def uses(self, stage: Stage) -> bool:
        """Return whether any request passes a stage."""
        least = {Stage.ENCODE: self.encode_from, Stage.PREFILL: self.prefill_from, Stage.DECODE: 0}
        return least[stage] is not None


def _reaches(tokens: int, least: int | None) -> bool:
    return least is not None and tokens >= least


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTag:
    """A request's modalities and the work it brings to each stage.

    Attributes:
        modalities: Always with TEXT.
        stages: The stages it passes, in order; encode is absent for text alone, and see `Split`.
        item_tokens: Image tokens of each media item, in order.
        prefill_tokens: Prompt tokens that load prefill: text, and media when kappa is 1.
        context_tokens: Prompt tokens as clients count them: text and media.
        output_tokens: Completion tokens at most.
    """

    modalities: frozenset[Modality]
    stages: tuple[Stage, ...]
    item_tokens: tuple[int, ...]
    prefill_tokens: int
    context_tokens: int
    output_tokens: int

    @property
    def encode_tokens(self) -> int:
        """Image tokens that encode has to make."""
        return sum(self.item_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """What the router knows of one engine replica.

    Attributes:
        replica_id: `<name>.<boot epoch>`.
        hardware: Hardware class as the policy file names it.
        domain: Values of the policy's topology levels, widest first; empty if unknown.
        slots: Requests that may be dispatched to it at once.
        in_flight: Credits reserved on it, by every gateway.
        pending_tokens: Tokens of dispatched work not yet done.
        free_kv_bytes: Bytes in free KV blocks, less what is reserved by dispatched work.
        total_kv_bytes: Bytes in all KV blocks; 0 for encode.
        draining: Takes no new work.
        quarantined: Reserved for requests that are retried alone.
        rate_tokens_per_s: Observed saturated rate in the stage's unit, 0.0 while unknown.
        prompts_s: Seconds of prompts ahead of a new one, where prefill and decode are one; else 0.0.
        spare_s: Seconds of prompts that it can take before a request that it decodes misses its target.
    """

    replica_id: str
    stage: Stage
    model: str
    modalities: frozenset[Modality] = frozenset()
    hardware: str = ""
    domain: tuple[str, ...] = ()
    slots: int
    in_flight: int = 0
    pending_tokens: int = 0
    free_kv_bytes: int = 0
    total_kv_bytes: int = 0
    draining: bool = False
    quarantined: bool = False
    rate_tokens_per_s: float = 0.0
    prompts_s: float = 0.0
    spare_s: float = math.inf


class ReplicaView(Protocol):
    """What the router reads of a replica; `Replica` has it as a value."""

    @property
    def replica_id(self) -> str: ...  # noqa: D102
    @property
    def stage(self) -> Stage: ...  # noqa: D102
    @property
    def model(self) -> str: ...  # noqa: D102
    @property
    def domain(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def slots(self) -> int: ...  # noqa: D102
    @property
    def in_flight(self) -> int: ...  # noqa: D102
    @property
    def pending_tokens(self) -> int: ...  # noqa: D102
    @property
    def free_kv_bytes(self) -> int: ...  # noqa: D102
    @property
    def total_kv_bytes(self) -> int: ...  # noqa: D102
    @property
    def draining(self) -> bool: ...  # noqa: D102
    @property
    def quarantined(self) -> bool: ...  # noqa: D102
    @property
    def prompts_s(self) -> float: ...  # noqa: D102
    @property
    def spare_s(self) -> float: ...  # noqa: D102


class RouteQuery(NamedTuple):
    """One hop that needs a replica; a tuple, for one is made at each try.

    Attributes:
        tokens: Work of this hop in the stage's unit.
        kv_bytes: KV bytes that it will hold; 0 for encode.
        affinity_key: Content hash for encode, else empty.
        prefix_tokens: Prompt tokens that each replica is believed to have cached, by replica id.
        domain: Topology domain of the stage before, empty if there is none or it is unknown.
        required_level: Leading entries of `domain` that the replica must share; 0 for none.
        onward_level: For prefill, the leading entries that decode will have to share; 0 for none.
        excluded: Replica ids that must not be chosen, such as one just fenced.
        avoided: Replica ids that are chosen only if no other is left, such as one that refused the hop.
        alone: The work is suspected of crashing engines and needs an idle replica to itself.
        prompt_tokens: Of the prompt, if the replica is to prefill and decode; 0 if prefill is apart.
        prompt_s: For so long its decodes would stand still; 0.0 if that is unknown, or prefill apart.
        due_in_s: Seconds until the first token is due.
    """

    stage: Stage
    model: str
    tokens: int
    prefix_tokens: Mapping[str, int]
    kv_bytes: int = 0
    affinity_key: str = ""
    domain: tuple[str, ...] = ()
    required_level: int = 0
    onward_level: int = 0
    excluded: frozenset[str] = frozenset()
    avoided: frozenset[str] = frozenset()
    alone: bool = False
    prompt_tokens: int = 0
    prompt_s: float = 0.0
    due_in_s: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The replica that was picked, or None with the reason.

    Attributes:
        scores: Total score of each candidate that passed the filters, by replica id.
        wanted: For an `alone` query, the replica to set aside until it is idle; else empty.
    """

    replica_id: str | None
    reason: Reason
    scores: Mapping[str, float]
    wanted: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLoad:
    """All gateways' view of one stage, for admission.

    Attributes:
        live_replicas: Replicas with a live lease that are not draining.
        backlog_tokens: Tokens waiting in gateways and dispatched, not yet done.
        rate_tokens_per_s: Tokens per second that the live replicas get done when busy; 0.0 while
            unknown (no work was seen yet).
    """

    live_replicas: int
    backlog_tokens: int
    rate_tokens_per_s: float

    @property
    def backlog_s(self) -> float:
        """Seconds of work ahead of a new arrival; 0.0 while the rate is unknown."""
        return self.backlog_tokens / self.rate_tokens_per_s if self.rate_tokens_per_s else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """The request may enter."""

    reason: Reason = Reason.ADMITTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """The request enters, but its encode waits until prefill's backlog is within its budget."""

    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """The request is turned away; the gateway answers 429 or 503.

    Attributes:
        retry_after_s: Seconds after which the backlog should be within bounds.
    """

    reason: Reason
    stage: Stage
    retry_after_s: float


Admission = Admitted | Queued | Rejected
