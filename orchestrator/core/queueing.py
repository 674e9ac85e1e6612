"""How many servers keep the wait within a budget: G/G/N by Sakasegawa, Allen and Cunneen.

The number of servers is real here, so that needs can be compared before they are rounded.
"""

import math

_PRECISION = 1e-3
"""Relative precision of a need; control rounds up to whole replicas."""


def wait_probability(servers: float, offered: float) -> float:
    """Return the probability that an arrival waits in M/M/`servers`; 1.0 if unstable.

    rho^(√(2(N+1))−1), the factor in Sakasegawa's approximation (Annals of the Institute of Statistical
    Mathematics 29, 1977). It is continuous in N, and within 0.06 of Erlang C.
    """
    rho = offered / servers
    return min(1.0, rho ** (math.sqrt(2.0 * (servers + 1.0)) - 1.0)) if rho > 0.0 else 0.0


def mean_wait_s(servers: float, offered: float, service_s: float, variability: float) -> float:
    """Return the mean wait in G/G/N; infinite if unstable.

    Args:
        servers: N, > 0.
        offered: Erlangs: arrivals per second times `service_s`.
        service_s: Mean service time of one unit of work, such as an image or a prompt.
        variability: ca² + cs²: squared coefficients of variation of inter-arrival and service times
            (the factor of Allen and Cunneen is half of it); 2.0 for M/M/N.
    """
    if offered >= servers:
        return math.inf
    return wait_probability(servers, offered) * _wait_of_the_waiting_s(
        servers, offered, service_s, variability
    )


def wait_p99_s(servers: float, offered: float, service_s: float, variability: float) -> float:
    """Return the 99th percentile of the wait: an exponential tail of those that wait at all."""
    if offered >= servers:
        return math.inf
    waits = wait_probability(servers, offered)
    if waits <= 0.01:
        return 0.0
    mean_s = _wait_of_the_waiting_s(servers, offered, service_s, variability)
    return mean_s * math.log(100.0 * waits)


def servers_needed(offered: float, service_s: float, variability: float, budget_s: float) -> float:
    """Return the fewest servers, unrounded, whose 99th percentile of the wait is within the budget.

    The wait falls with every server, so bisection finds the place. 0.0 without load.

    Args:
        offered: Erlangs, ≥ 0.
        service_s: As for `mean_wait_s`.
        variability: As for `mean_wait_s`.
        budget_s: > 0.
    """
    if offered <= 0.0:
        return 0.0
    low = offered
    step = max(1.0, offered)
    while wait_p99_s(low + step, offered, service_s, variability) > budget_s:
        low, step = low + step, step * 2.0
    high = low + step
    while high - low > _PRECISION * high:
        middle = (low + high) / 2.0
        if wait_p99_s(middle, offered, service_s, variability) > budget_s:
            low = middle
        else:
            high = middle
    return high


def _wait_of_the_waiting_s(servers: float, offered: float, service_s: float, variability: float) -> float:
    return variability / 2.0 * service_s / (servers - offered)
