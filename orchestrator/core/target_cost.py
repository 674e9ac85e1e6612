"""What running a stage on a target costs in a month, and its P99 with cold starts.

The load is taken as flat at its mean.
"""

import math
from dataclasses import dataclass

from orchestrator.core.queueing import wait_p99_s
from orchestrator.core.stage_work import CallTiming, StageWork
from orchestrator.core.target_places import Place
from orchestrator.core.targets import SECONDS_PER_MONTH, Span, Target

GB = 1e9
_TAIL = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What running a stage at a place comes to.

    Attributes:
        usd_per_month: For the stage alone; 730 hours.
        latency_p99_s: That the stage adds to the first token: transfer, cold start, waiting, work.
        replicas: Kept up while it is not scaled to zero; 0 for functions.
        cold_fraction: Of requests that meet a cold start, 0 to 1.
        cold_start_s: Of a replica or function; also what scaling out takes.
    """

    usd_per_month: float
    latency_p99_s: float
    replicas: int
    cold_fraction: float
    cold_start_s: Span


def estimate(work: StageWork, target: Target, place: Place) -> Estimate:
    """Return cost and latency at a place without obstacles."""
    on = on_function if target.function else on_machines
    return on(work, target, place)


def on_function(work: StageWork, target: Target, place: Place) -> Estimate:
    """Return the estimate for billed calls.

    ```
    cold  = (1 − e^(−λT)) / λT            λ arrivals_per_s, T idle_s
    cost  = calls · ((call_s + cold·start_s) · usd_per_s + usd_per_call) + GB · usd_per_gb + fixed
    ```
    A call meets a cold start only if more calls run than at any other in the T before it, for their
    environments are all kept. Among 1 + n exchangeable calls the last is such a record with probability
    1/(1 + n) at most; `cold` is its mean over n, Poisson with mean λT: an upper bound. The start is billed
    like the call, as AWS Lambda does since August 2025.
    """
    assert target.function is not None
    assert place.timing is not None
    start_s = cold_start_s(work, target)
    expected = _arrivals(work, target.idle_s)
    cold = -math.expm1(-expected) / expected if expected else 1.0
    call_usd = (place.timing.call_s + cold * start_s.mean_s) * place.usd_per_s + target.function.usd_per_call
    calls = work.calls_per_s * SECONDS_PER_MONTH
    return Estimate(
        usd_per_month=calls * call_usd + _flat_usd(work, target),
        latency_p99_s=_with_cold_starts(place.timing.first_s, 0.0, cold, start_s),
        replicas=0,
        cold_fraction=cold,
        cold_start_s=start_s,
    )


def on_machines(work: StageWork, target: Target, place: Place) -> Estimate:
    """Return the estimate for rented machines.

    ```
    N     = fewest replicas whose wait at P99 and work are within the budget, at least 1
    down  = 1 / (λc + e^(λT))             fraction of time at zero; λ arrivals_per_s, c mean start, T idle_s
    cold  = (1 + λc) · down               fraction of requests
    cost  = N · usd_per_s · (1 − down) + GB · usd_per_gb + fixed          N rounded up to whole machines
    ```
    Renewal–reward: a cycle is 1/λ at zero, a start of c, and Poisson arrivals until a gap longer than T
    comes, (e^(λT) − 1)/λ. Those that arrive during the start are cold too. `down` is 0 where nothing is
    scaled to zero. The wait is that of `core.queueing`, with a server for each slot of each replica.
    """
    assert place.timing is not None
    start_s = cold_start_s(work, target)
    replicas = replicas_needed(work, place.timing)
    machines = math.ceil(replicas / place.per_machine)
    starting = _arrivals(work, start_s.mean_s)
    down = 1.0 / (starting + _exp(_arrivals(work, target.idle_s)))
    cold = (1.0 + starting) * down
    up_usd = machines * place.per_machine * place.usd_per_s * (1.0 - down) * SECONDS_PER_MONTH
    wait_s = _wait_s(work, place.timing, replicas)
    return Estimate(
        usd_per_month=up_usd + _flat_usd(work, target),
        latency_p99_s=_with_cold_starts(place.timing.first_s, wait_s, cold, start_s),
        replicas=replicas,
        cold_fraction=cold,
        cold_start_s=start_s,
    )


def _arrivals(work: StageWork, seconds: float) -> float:
    """Return the mean number of requests in a time; infinite in infinite time, even at a rate of 0."""
    return math.inf if math.isinf(seconds) else work.arrivals_per_s * seconds


def _exp(exponent: float) -> float:
    """Return e^exponent, infinite where a float cannot hold it."""
    return math.exp(exponent) if exponent < 700.0 else math.inf


def cold_start_s(work: StageWork, target: Target) -> Span:
    """Return the seconds from the decision to a replica that takes work."""
    if not target.load_bytes_per_s:
        return target.start_s.plus(work.load_s)
    load_s = work.weights_bytes / target.load_bytes_per_s
    return target.start_s.plus(Span(load_s, load_s))


def replicas_needed(work: StageWork, timing: CallTiming) -> int:
    """Return the fewest whole replicas whose wait at P99 and work are within the budget, at least 1.

    The wait falls with every replica, so bisection finds the place.

    Raises:
        ValueError: Transfer and work alone take the budget.
    """
    if timing.first_s >= work.budget_s:
        raise ValueError(f"{timing.first_s} s of work do not fit in a budget of {work.budget_s} s")

    def enough(replicas: int) -> bool:
        return _wait_s(work, timing, replicas) <= work.budget_s - timing.first_s

    high = 1
    while not enough(high):
        high *= 2
    low = high // 2  # not enough, or 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _wait_s(work: StageWork, timing: CallTiming, replicas: int) -> float:
    offered = work.calls_per_s * timing.call_s
    return wait_p99_s(replicas * timing.slots, offered, timing.call_s, work.variability) if offered else 0.0


def _flat_usd(work: StageWork, target: Target) -> float:
    moved = work.calls_per_s * SECONDS_PER_MONTH * (work.request_bytes + work.response_bytes)
    return target.usd_per_month + moved / GB * target.usd_per_gb


def _with_cold_starts(first_s: float, wait_s: float, cold: float, start_s: Span) -> float:
    """Return the P99: that of warm requests, or within the cold ones if they are more than 1 in 100."""
    warm_s = wait_s + first_s
    if cold <= _TAIL:
        return warm_s
    return max(warm_s, start_s.at(1.0 - _TAIL / cold) + first_s)
