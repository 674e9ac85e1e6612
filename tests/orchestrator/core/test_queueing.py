"""How many servers keep a wait within its budget."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from orchestrator.core.queueing import mean_wait_s, servers_needed, wait_p99_s, wait_probability

SERVICE_S = 1.0
POISSON = 2.0

loads = st.floats(0.01, 500.0)
budgets = st.floats(0.01, 20.0)
variabilities = st.floats(0.2, 50.0)


def erlang_c(servers, offered):
    """Return the exact waiting probability of M/M/N, from the recursion of Erlang B."""
    blocked = 1.0
    for n in range(1, servers + 1):
        blocked = offered * blocked / (n + offered * blocked)
    rho = offered / servers
    return blocked / (1.0 - rho + rho * blocked)


def test_eight_servers_at_85_percent():
    """Exact M/M/8: a mean of 0.484 and a 99th percentile of 3.37 service times."""
    offered = 8 * 0.85
    assert 0.48 <= mean_wait_s(8, offered, SERVICE_S, POISSON) <= 0.50
    assert 3.37 <= wait_p99_s(8, offered, SERVICE_S, POISSON) <= 3.40


def test_one_server_is_exact():
    """M/M/1: rho / (1 - rho); M/D/1: half of it."""
    assert mean_wait_s(1, 0.6, SERVICE_S, POISSON) == pytest.approx(1.5)
    assert mean_wait_s(1, 0.6, SERVICE_S, 1.0) == pytest.approx(0.75)


@given(st.integers(1, 100), st.floats(0.05, 0.99))
def test_the_waiting_probability_is_near_erlang_c(servers, rho):
    offered = servers * rho
    assert wait_probability(servers, offered) == pytest.approx(erlang_c(servers, offered), abs=0.06)


@pytest.mark.parametrize("servers", [1.0, 7.5])
def test_a_load_beyond_the_servers_waits_for_ever(servers):
    assert mean_wait_s(servers, servers, SERVICE_S, POISSON) == math.inf
    assert wait_p99_s(servers, servers * 2, SERVICE_S, POISSON) == math.inf


@given(st.floats(0.1, 200.0), st.floats(1.01, 3.0), variabilities)
def test_one_more_server_never_means_a_longer_wait(offered, spare, variability):
    servers = offered * spare
    for wait in (mean_wait_s, wait_p99_s):
        fewer, more = (wait(n, offered, SERVICE_S, variability) for n in (servers, servers + 1.0))
        assert more <= fewer


def test_no_load_needs_no_server():
    assert servers_needed(0.0, SERVICE_S, POISSON, 1.0) == 0.0


@given(loads, variabilities, budgets)
def test_the_servers_needed_keep_the_budget_and_hardly_fewer_do(offered, variability, budget_s):
    needed = servers_needed(offered, SERVICE_S, variability, budget_s)
    assert needed > offered
    assert wait_p99_s(needed, offered, SERVICE_S, variability) <= budget_s
    fewer = needed * 0.998
    assume(fewer > offered)
    assert wait_p99_s(fewer, offered, SERVICE_S, variability) > budget_s


@given(loads, loads, variabilities, budgets)
def test_more_load_never_needs_fewer_servers(a, b, variability, budget_s):
    """Monotone, up to the precision of the bisection."""
    low, high = (servers_needed(load, SERVICE_S, variability, budget_s) for load in sorted((a, b)))
    assert low <= high * 1.002


@given(loads, variabilities, budgets, budgets)
def test_a_looser_budget_never_needs_more_servers(offered, variability, a, b):
    tight, loose = (servers_needed(offered, SERVICE_S, variability, budget) for budget in sorted((a, b)))
    assert loose <= tight * 1.002


@given(loads, variabilities, variabilities, budgets)
def test_more_variability_never_needs_fewer_servers(offered, a, b, budget_s):
    calm, wild = (servers_needed(offered, SERVICE_S, each, budget_s) for each in sorted((a, b)))
    assert calm <= wild * 1.002


@given(loads, variabilities, budgets, st.floats(0.001, 100.0))
def test_only_the_ratio_of_budget_and_service_time_counts(offered, variability, budget_s, scale):
    one = servers_needed(offered, SERVICE_S, variability, budget_s)
    scaled = servers_needed(offered, SERVICE_S * scale, variability, budget_s * scale)
    assert scaled == pytest.approx(one, rel=0.003)
