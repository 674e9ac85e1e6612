"""In which order the waiting hops of a stage are dispatched: slack over remaining size, with aging.

The order is that of a key fixed when the hop is enqueued, so a plain heap holds it: the second at
which the hop's slack falls to its remaining work, no earlier than its arrival and no later than
`age_s` behind it, less what its priority is worth. It acts as earliest deadline first while
deadlines can be met, as first come first served among hops that are overdue (or have no hurry), and
lets nobody starve: no key is later than arrival_s + age_s + priority_s and none is earlier than
arrival_s - priority_s, so nothing that arrives more than age_s + 2·priority_s later goes first.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.core.capacity import encoded_s
from orchestrator.core.types import StageTag
from stages.types import Stage

PRIORITY_RANGE = 100
"""Priorities go from -PRIORITY_RANGE to PRIORITY_RANGE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingParams:
    """What ordering needs of a policy file.

    Attributes:
        ttft_s: Target of the time to first token of a request that names no deadline; > 0.
        stretch: A request's target is at least this many times its isolated time; 0.0 makes the
            target independent of size.
        age_s: Seconds of patience at most; bounds how long others of equal priority overtake.
        priority_s: Seconds of head start that the highest priority is worth; ≥ 0.
        tpot_s: Target of the mean time per output token; inf for none.
    """

    ttft_s: float
    stretch: float
    age_s: float
    priority_s: float
    tpot_s: float = math.inf


class Waiting(NamedTuple):
    """One hop that waits for a credit. All seconds are of one monotonic clock.

    Attributes:
        hop_id: Unique among the waiting hops; breaks ties.
        arrival_s: When the request arrived, not the hop: time spent in earlier stages counts.
        due_s: When its first token is due: the deadline the client named, else `due_s()`.
        deadline_s: When it is worth nothing any more.
        work_s: Estimated seconds of this hop's work; 0.0 while unknown.
        priority: -100 to 100, higher goes first.
    """

    hop_id: str
    arrival_s: float
    due_s: float
    deadline_s: float
    work_s: float = 0.0
    priority: int = 0


def isolated_by_rates_s(
    tag: StageTag, rates: Mapping[Stage, float], *, images_at_once: int, preprocess_s: float = 0.0
) -> float:
    """Return the estimated seconds to the first token of a request that is alone; live and simulated.

    A gateway knows rates and no profile, so a prompt takes its share of a full step however short it is:
    that alone sets it apart from `capacity.isolated_ttft_s`. It does not depend on how many replicas there
    happen to be, or targets would move with scaling. Items are taken to be of their mean size.

    Args:
        tag: The request's work.
        rates: Tokens per second of one replica; a stage of unknown rate (0.0 or missing) counts as instant.
        images_at_once: Media items that are encoded side by side; ≥ 1.
        preprocess_s: Before encode, where its rate does not include it.
    """
    encode, prefill = (rates.get(stage, 0.0) for stage in (Stage.ENCODE, Stage.PREFILL))
    seconds = tag.prefill_tokens / prefill if prefill else 0.0
    if items := len(tag.item_tokens):
        image_s = tag.encode_tokens / items / encode if encode else 0.0
        seconds += encoded_s(items, image_s=image_s, images_at_once=images_at_once, preprocess_s=preprocess_s)
    return seconds


def due_s(arrival_s: float, alone_s: float, params: WaitingParams) -> float:
    """Return when the first token is due of a request that named no deadline.

    Args:
        arrival_s: When it arrived.
        alone_s: `isolated_by_rates_s()` of it. A 16-image request gets a target that it can meet:
            `stretch` times this, if that is more than `ttft_s`.
        params: The policy's parameters.
    """
    return arrival_s + max(params.ttft_s, params.stretch * alone_s)


def dispatch_key(waiting: Waiting, params: WaitingParams) -> tuple[float, str]:
    """Return the heap key of a hop: the smallest is dispatched first. It never changes."""
    critical_s = waiting.due_s - 2.0 * waiting.work_s  # slack = due_s - now_s - work_s equals work_s
    patience_s = min(max(critical_s - waiting.arrival_s, 0.0), params.age_s)
    head_start_s = params.priority_s * waiting.priority / PRIORITY_RANGE
    return waiting.arrival_s + patience_s - head_start_s, waiting.hop_id


def expired(waiting: Waiting, now_s: float) -> bool:
    """Return whether the hop is worth nothing any more and is dropped instead of dispatched."""
    return now_s >= waiting.deadline_s
