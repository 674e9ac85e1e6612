"""admit(): may a request enter, must its encode wait, or is it turned away, and until when."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.core.types import (
    Admission,
    Admitted,
    Queued,
    Reason,
    Rejected,
    ReplicaView,
    StageLoad,
    StageTag,
)
from stages.types import Modality, Stage

STARTING_S = 1.0
"""When to come back if a stage has no replica: a crashed worker is back after 0.2–5 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionBounds:
    """What admission needs of a policy file.

    Attributes:
        queue_s: Backlog seconds of a stage, over all gateways, above which new work is refused; > 0.
        prefill_backlog_s: Backlog seconds of prefill above which no image work starts; > 0.
        encode_waits: Whether image work waits here for a replica, and can so be held.
    """

    queue_s: float
    prefill_backlog_s: float
    encode_waits: bool = True


def admit(
    tag: StageTag,
    loads: Mapping[Stage, StageLoad],
    bounds: AdmissionBounds,
    served: frozenset[Modality],
    slack_s: float,
) -> Admission:
    """Return whether a request may enter.

    A deadline refuses only what cannot be met even if the request overtook everything: waiting work
    is ordered by slack, so the backlog ahead of a tight request is not the backlog it waits for.

    Args:
        tag: The request's work.
        loads: Every stage's load over all gateways; a missing stage has no replica.
        bounds: The policy's bounds.
        served: Modalities that the model's engines read.
        slack_s: Seconds until the request's deadline.
    """
    if not tag.modalities <= served:
        return Rejected(reason=Reason.MODALITY_UNSERVED, stage=Stage.ENCODE, retry_after_s=0.0)
    for stage in tag.stages:
        if stage not in loads or loads[stage].live_replicas < 1:
            return Rejected(reason=Reason.NO_REPLICA, stage=stage, retry_after_s=STARTING_S)
    if slack_s <= 0.0 or least_time_s(tag, loads) > slack_s:
        return Rejected(reason=Reason.DEADLINE_EXPIRED, stage=tag.stages[0], retry_after_s=0.0)
    fullest = max(tag.stages, key=lambda stage: loads[stage].backlog_s)
    excess_s = loads[fullest].backlog_s - bounds.queue_s
    if excess_s > 0.0:
        return Rejected(reason=Reason.BACKLOG_FULL, stage=fullest, retry_after_s=excess_s)
    if {Stage.ENCODE, Stage.PREFILL} <= set(tag.stages) and encode_held(loads[Stage.PREFILL], bounds):
        return Queued(reason=Reason.PREFILL_BACKPRESSURE)
    return Admitted()


def fits_context(prompt_tokens: int, completion_tokens: int, max_context: int | None) -> bool:
    """Return whether a request has as many positions as it may need.

    Args:
        prompt_tokens: As clients count them, media included.
        completion_tokens: At most.
        max_context: Positions of prompt and completion together; None for no limit.
    """
    return max_context is None or prompt_tokens + completion_tokens <= max_context


def encode_held(prefill: StageLoad, bounds: AdmissionBounds) -> bool:
    """Return whether image work must wait: prefill could not absorb what encode would make.

    `prefill.backlog_tokens` must not count requests that are themselves held here, or none of them
    would ever be let go.
    """
    return bounds.encode_waits and prefill.backlog_s > bounds.prefill_backlog_s


def least_time_s(tag: StageTag, loads: Mapping[Stage, StageLoad]) -> float:
    """Return a lower bound on the seconds to the first token, were the request alone.

    Each stage's work at the rate of all its replicas together; a stage of unknown rate counts as
    instant. Decode is left out: `output_tokens` is a ceiling that few requests reach.
    """
    work = {Stage.ENCODE: tag.encode_tokens, Stage.PREFILL: tag.prefill_tokens}
    rates = {stage: loads[stage].rate_tokens_per_s for stage in tag.stages if stage in work}
    return sum(work[stage] / rate for stage, rate in rates.items() if rate)


def stage_load(
    stage: Stage, replicas: Iterable[ReplicaView], waiting_tokens: int, rate_tokens_per_s: float
) -> StageLoad:
    """Return a stage's load.

    A decode that runs is not ahead of a new one, which joins the batch, until every slot is taken.

    Args:
        stage: The stage.
        replicas: Its own, draining or not.
        waiting_tokens: What waits in all gateways.
        rate_tokens_per_s: Of one replica when busy; 0.0 while unknown.
    """
    live = [replica for replica in replicas if not replica.draining]
    free = stage is Stage.DECODE and any(replica.in_flight < replica.slots for replica in live)
    pending = 0 if free else sum([replica.pending_tokens for replica in live])
    return StageLoad(
        live_replicas=len(live),
        backlog_tokens=pending + waiting_tokens,
        rate_tokens_per_s=rate_tokens_per_s * len(live),
    )
