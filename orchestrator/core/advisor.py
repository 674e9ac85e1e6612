"""Where should a stage run? Targets compared by feasibility, monthly cost, P99 and break-even rate.

docs/advise.md says what the comparison leaves out.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from orchestrator.core.stage_work import StageWork
from orchestrator.core.target_cost import Estimate, estimate
from orchestrator.core.target_places import Place, places
from orchestrator.core.targets import HOURS_PER_MONTH, Target, TargetKind

_LOWEST_PER_S, _HIGHEST_PER_S = 1e-6, 1e4
_RATE_PRECISION = 1e-9


class Infeasible(StrEnum):
    """Why a stage cannot run on a target."""

    NOT_OFFERED = "not-offered"
    NO_TIMING = "no-timing"
    ACCELERATOR = "accelerator"
    TOO_SLOW = "too-slow"
    MEMORY = "memory"
    TIME_LIMIT = "time-limit"
    STREAMING = "streaming"
    PAYLOAD = "payload"
    CONCURRENCY = "concurrency"


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """One reason against a target, with its numbers where there are any.

    Attributes:
        needed: Seconds, bytes or calls, as the reason has it.
        allowed: In the same unit.
    """

    reason: Infeasible
    needed: float = 0.0
    allowed: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One target for one stage.

    Attributes:
        place: The best one on it; None if there is none to speak of.
        obstacles: Why it is infeasible, empty if it is not.
        estimate: At the service's load; None if infeasible.
        within_budget: Whether the P99 is within the stage's budget.
    """

    target: str
    kind: TargetKind
    place: Place | None
    obstacles: tuple[Obstacle, ...]
    estimate: Estimate | None
    within_budget: bool

    @property
    def feasible(self) -> bool:
        """Whether the stage can run there at all."""
        return self.estimate is not None


def advise(work: StageWork, targets: Sequence[Target]) -> tuple[Verdict, ...]:
    """Return a verdict on each target, in the order given."""
    return tuple(judge(work, target) for target in targets)


def recommend(verdicts: Sequence[Verdict]) -> Verdict | None:
    """Return the cheapest feasible target with its P99 within the budget; None if there is none.

    Of equally expensive ones it is the first by name.
    """
    good = [(v.estimate.usd_per_month, v.target, v) for v in verdicts if v.estimate and v.within_budget]
    return min(good, key=lambda each: each[:2])[2] if good else None


def judge(work: StageWork, target: Target) -> Verdict:
    """Return the verdict on one target: its cheapest feasible place.

    If none is feasible, the obstacles are those of the place with the fewest.
    """
    options = [(place, tuple(obstacles(work, target, place))) for place in places(work, target)]
    if not options:
        reason = Infeasible.NO_TIMING if target.offered else Infeasible.NOT_OFFERED
        return _verdict(target, None, (Obstacle(reason=reason),))
    open_to = [(place, estimate(work, target, place)) for place, against in options if not against]
    if not open_to:
        place, against = min(options, key=lambda option: (len(option[1]), option[0].usd_per_s))
        return _verdict(target, place, against)
    place, best = min(open_to, key=lambda each: (each[1].usd_per_month, each[0].machine))
    return _verdict(target, place, (), best, within_budget=best.latency_p99_s <= work.budget_s)


def _verdict(
    target: Target,
    place: Place | None,
    against: tuple[Obstacle, ...],
    found: Estimate | None = None,
    *,
    within_budget: bool = False,
) -> Verdict:
    return Verdict(
        target=target.name,
        kind=target.kind,
        place=place,
        obstacles=against,
        estimate=found,
        within_budget=within_budget,
    )


def obstacles(work: StageWork, target: Target, place: Place) -> Iterator[Obstacle]:
    """Yield every reason against a place.

    Processors that take longer than the stage's budget, or longer per token than promised, are an
    `accelerator` obstacle, an accelerator that does is `too-slow`. Concurrency is the 99th percentile of
    calls at once, a + 2.33 √a of a Poisson number with mean a = calls per second × seconds.
    """
    limits, timing = target.limits, place.timing
    if timing is None:
        yield Obstacle(reason=Infeasible.NO_TIMING)
        return
    slow = Infeasible.TOO_SLOW if place.where else Infeasible.ACCELERATOR
    if timing.first_s >= work.budget_s:
        yield Obstacle(reason=slow, needed=timing.first_s, allowed=work.budget_s)
    else:
        yield from _above(slow, timing.piece_s, work.piece_s)
    memory = work.weights_bytes + work.working_bytes
    yield from _above(Infeasible.MEMORY, memory, place.memory_bytes)
    if work.streams and limits.stream_s == 0.0:
        yield Obstacle(reason=Infeasible.STREAMING)
    else:
        yield from _above(
            Infeasible.TIME_LIMIT, timing.call_s, limits.stream_s if work.streams else limits.call_s
        )
    yield from _payload(work, target)
    at_once = work.calls_per_s * timing.call_s
    yield from _above(Infeasible.CONCURRENCY, at_once + 2.33 * math.sqrt(at_once), limits.concurrency)


def _payload(work: StageWork, target: Target) -> Iterator[Obstacle]:
    """Yield at most one obstacle: the larger excess."""
    if target.direct:
        return
    pairs = [(work.request_bytes, target.limits.request_bytes)]
    if not work.streams:
        pairs.append((work.response_bytes, target.limits.response_bytes))
    needed, allowed = max(pairs, key=lambda pair: pair[0] / pair[1])
    yield from _above(Infeasible.PAYLOAD, needed, allowed)


def _above(reason: Infeasible, needed: float, allowed: float) -> Iterator[Obstacle]:
    if needed > allowed:
        yield Obstacle(reason=reason, needed=needed, allowed=allowed)


def together_usd(target: Target, verdicts: Sequence[Verdict]) -> float | None:
    """Return the monthly cost of several stages on one target, each at its place; None if one is infeasible.

    What the target costs whatever the load is paid once. Machines that stages share are rented whole: on
    top of the stages' shares come the accelerators of each type that no stage fills.

    Args:
        target: Where they run.
        verdicts: On that target, one per stage.
    """
    usd = target.usd_per_month
    filled: defaultdict[str, float] = defaultdict(float)
    for verdict in verdicts:
        if verdict.estimate is None or verdict.place is None:
            return None
        usd += verdict.estimate.usd_per_month - target.usd_per_month
        if target.shares_machines and verdict.place.where:
            filled[verdict.place.machine] += verdict.estimate.replicas * verdict.place.where.tp
    left_over = sum(
        (-filled[machine.name] % machine.accelerators) * machine.usd_per_h / machine.accelerators
        for machine in target.machines
        if machine.name in filled
    )
    return usd + left_over * HOURS_PER_MONTH


def break_even_per_s(work: StageWork, one: Target, other: Target) -> float | None:
    """Return the lowest rate, in requests per second, at which two targets cost the same.

    Below it one of them is cheaper, above it the other. Machines are whole, so the costs may cross in a
    step of one machine rather than be equal. Only costs count, not latency. The rate is doubled until the
    cheaper one changes: two crossings within a factor of two are passed over.

    Returns:
        None if one of them is cheaper at every rate from 1e-6 to 1e4, or infeasible before they cross.
    """
    cost, other_cost = _cost_by_rate(work, one), _cost_by_rate(work, other)

    def cheaper(rate: float) -> int | None:
        a, b = cost(rate), other_cost(rate)
        return None if a is None or b is None else (a > b) - (a < b)

    low = _LOWEST_PER_S
    first = cheaper(low)
    while first and low < _HIGHEST_PER_S:
        high = low * 2.0
        if (then := cheaper(high)) is None:
            return None
        if then != first:
            return _meeting(cheaper, low, high, first)
        low = high
    return None


def _meeting(cheaper: Callable[[float], int | None], low: float, high: float, first: int) -> float:
    while high - low > _RATE_PRECISION * high:
        middle = (low + high) / 2.0
        low, high = (middle, high) if cheaper(middle) == first else (low, middle)
    return high


def _cost_by_rate(work: StageWork, target: Target) -> Callable[[float], float | None]:
    """Return the cost in a month by requests per second, None where the target is infeasible."""

    def cost(rate: float) -> float | None:
        found = judge(replace(work, requests_per_s=rate), target).estimate
        return found.usd_per_month if found else None

    return cost
