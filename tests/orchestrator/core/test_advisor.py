"""Where a stage can run, why not elsewhere, and what it costs: worked examples and laws."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.advisor import (
    Infeasible,
    advise,
    break_even_per_s,
    judge,
    recommend,
    together_usd,
)
from orchestrator.core.profile import HardwareClass
from orchestrator.core.stage_work import CallTiming, StageWork
from orchestrator.core.target_cost import replicas_needed
from orchestrator.core.targets import (
    HOURS_PER_MONTH,
    SECONDS_PER_MONTH,
    Function,
    Limits,
    Machine,
    Span,
    Target,
    TargetKind,
)
from stages.types import Stage

GB = 1e9
L4 = HardwareClass("l4", 1)

WORK = StageWork(
    stage=Stage.ENCODE,
    requests_per_s=1.0,
    calls_per_request=1.0,
    timings={L4: CallTiming(call_s=0.1, first_s=0.1)},
    vcpu=CallTiming(call_s=2.0, first_s=2.0),
    weights_bytes=1 * GB,
    working_bytes=0.01 * GB,
    request_bytes=1e6,
    response_bytes=2e6,
    streams=False,
    budget_s=1.0,
    load_s=Span(10.0, 20.0),
)
LAMBDA = Target(
    name="lambda",
    kind=TargetKind.SERVERLESS_CPU,
    title="Functions",
    function=Function(memory_bytes=10 * GB, vcpus=4.0, usd_per_s=2e-4, usd_per_call=2e-7),
    limits=Limits(call_s=900.0, stream_s=900.0, request_bytes=6e6, response_bytes=6e6, concurrency=1000.0),
    start_s=Span(1.0, 3.0),
    idle_s=400.0,
    load_bytes_per_s=1e9,
)
G6 = Machine(name="g6", hardware="l4", accelerators=1, memory_bytes=24 * GB, vcpus=4, usd_per_h=1.0)
G6_4 = Machine(name="g6x4", hardware="l4", accelerators=4, memory_bytes=24 * GB, vcpus=48, usd_per_h=4.4)
POOL = Target(
    name="pool",
    kind=TargetKind.KUBERNETES_POOL,
    title="Pool",
    machines=(G6,),
    direct=True,
    usd_per_month=73.0,
    start_s=Span(90.0, 180.0),
)
TO_ZERO = replace(POOL, name="to-zero", idle_s=300.0, usd_per_month=0.0)


def reasons(work, target):
    return {obstacle.reason for obstacle in judge(work, target).obstacles}


@pytest.mark.parametrize(
    ("work", "target", "expected"),
    [
        pytest.param({}, {}, set(), id="feasible"),
        pytest.param({"budget_s": 0.4}, {}, {Infeasible.ACCELERATOR}, id="processors-too-slow"),
        pytest.param({"piece_s": 0.1}, {}, {Infeasible.ACCELERATOR}, id="tokens-too-slow"),
        pytest.param({"weights_bytes": 10 * GB}, {}, {Infeasible.MEMORY}, id="weights-fill-the-memory"),
        pytest.param({"vcpu": None}, {}, {Infeasible.NO_TIMING}, id="unknown-on-processors"),
        pytest.param({}, {"limits": Limits(call_s=0.4)}, {Infeasible.TIME_LIMIT}, id="call-too-long"),
        pytest.param(
            {"streams": True}, {"limits": Limits(stream_s=0.0)}, {Infeasible.STREAMING}, id="no-streams"
        ),
        pytest.param({"request_bytes": 6.1e6}, {}, {Infeasible.PAYLOAD}, id="input-too-large"),
        pytest.param({"response_bytes": 6.1e6}, {}, {Infeasible.PAYLOAD}, id="output-too-large"),
        pytest.param({"response_bytes": 6.1e6, "streams": True}, {}, set(), id="large-output-in-a-stream"),
        pytest.param({"request_bytes": 6.1e6}, {"direct": True}, set(), id="large-input-not-in-the-call"),
        pytest.param({"requests_per_s": 2000.0}, {}, {Infeasible.CONCURRENCY}, id="too-many-at-once"),
        pytest.param({}, {"offered": False}, {Infeasible.NOT_OFFERED}, id="no-such-service"),
        pytest.param(
            {"weights_bytes": 10 * GB, "request_bytes": 7e6},
            {},
            {Infeasible.MEMORY, Infeasible.PAYLOAD},
            id="every-reason-is-named",
        ),
    ],
)
def test_functions(work, target, expected):
    timing = CallTiming(call_s=2.0, first_s=2.0, piece_s=2.0 if "piece_s" in work else 0.0)
    work = replace(WORK, **{"vcpu": timing, **work})
    assert reasons(work, replace(LAMBDA, **target)) == expected


@pytest.mark.parametrize(
    ("work", "target", "expected"),
    [
        pytest.param({}, {}, set(), id="feasible"),
        pytest.param({"budget_s": 0.1}, {}, {Infeasible.TOO_SLOW}, id="accelerator-too-slow"),
        pytest.param(
            {"request_bytes": 1e9}, {"payload_bytes_per_s": 1e9}, {Infeasible.TOO_SLOW}, id="transfer"
        ),
        pytest.param(
            {"request_bytes": 1e9},
            {"payload_bytes_per_s": 1e9, "machines": (replace(G6, network_bytes_per_s=1e10),)},
            set(),
            id="transfer-over-the-machine's-network",
        ),
        pytest.param(
            {"request_bytes": 1e9},
            {"machines": (replace(G6_4, network_bytes_per_s=4e9),)},
            {Infeasible.TOO_SLOW},
            id="transfer-over-a-replica's-share-of-it",
        ),
        pytest.param({"weights_bytes": 21.6 * GB}, {}, {Infeasible.MEMORY}, id="a-tenth-stays-free"),
        pytest.param(
            {"timings": {HardwareClass("h100", 1): CallTiming(call_s=0.1, first_s=0.1)}},
            {},
            {Infeasible.NO_TIMING},
            id="other-hardware",
        ),
        pytest.param(
            {"timings": {HardwareClass("l4", 2): CallTiming(call_s=0.1, first_s=0.1)}},
            {},
            {Infeasible.NO_TIMING},
            id="too-few-accelerators",
        ),
    ],
)
def test_machines(work, target, expected):
    assert reasons(replace(WORK, **work), replace(POOL, **target)) == expected


def test_a_function_costs_its_calls_and_its_cold_starts():
    """One call a second takes 0.5 s; a start of 2 s and 1 s of loading is met by 1/400 of the calls."""
    found = judge(WORK, LAMBDA).estimate
    cold = (1 - math.exp(-400)) / 400
    assert found.cold_fraction == pytest.approx(cold)
    assert found.usd_per_month == pytest.approx(SECONDS_PER_MONTH * ((0.5 + cold * 3.0) * 2e-4 + 2e-7))
    assert found.latency_p99_s == pytest.approx(0.5)


def test_rare_requests_meet_cold_starts_so_the_p99_is_one():
    """At a request an hour 95 % are cold; the 99th percentile is 98.9 % of the way from 2 s to 4 s."""
    rare = replace(WORK, requests_per_s=1 / 3600)
    found = judge(rare, LAMBDA).estimate
    assert found.cold_fraction == pytest.approx(0.9464, abs=1e-4)
    assert found.latency_p99_s == pytest.approx(0.5 + 2.0 + 2.0 * (1 - 0.01 / found.cold_fraction))
    assert not judge(rare, LAMBDA).within_budget


def test_a_pool_costs_its_machines_and_its_control_plane():
    found = judge(WORK, POOL).estimate
    assert (found.replicas, found.cold_fraction) == (1, 0.0)
    assert found.usd_per_month == pytest.approx(HOURS_PER_MONTH * 1.0 + 73.0)
    assert found.cold_start_s == Span(100.0, 200.0)


def test_what_is_scaled_to_zero_costs_the_time_it_is_up():
    """A renewal cycle: at zero for 1/λ, starting for c, up until a gap is longer than the idle time."""
    rare = replace(WORK, requests_per_s=0.001)
    found = judge(rare, TO_ZERO).estimate
    at_zero_s, start_s, up_s = 1000.0, 150.0, (math.exp(0.3) - 1.0) * 1000.0
    cycle_s = at_zero_s + start_s + up_s
    assert found.usd_per_month == pytest.approx(HOURS_PER_MONTH * (start_s + up_s) / cycle_s)
    assert found.cold_fraction == pytest.approx((1.0 + 0.15) / (cycle_s * 0.001))


@pytest.mark.parametrize(("shares", "usd"), [(True, 4.4 / 4), (False, 4.4)])
def test_a_replica_costs_its_share_only_where_machines_are_shared(shares, usd):
    target = replace(POOL, machines=(G6_4,), shares_machines=shares, usd_per_month=0.0)
    assert judge(WORK, target).estimate.usd_per_month == pytest.approx(HOURS_PER_MONTH * usd)


def test_memory_bounds_the_sequences_in_a_batch():
    """24 GB, a tenth of it free, 17.6 GB of weights: 4 GB are left for sequences of 1 GB."""
    timing = CallTiming(call_s=1.0, first_s=0.05, piece_s=0.05, slots=64)
    work = replace(WORK, timings={L4: timing}, weights_bytes=17.6 * GB, working_bytes=1 * GB)
    assert judge(work, POOL).place.timing.slots == 4


def test_traffic_is_paid_by_the_gigabyte():
    paid = judge(WORK, replace(POOL, usd_per_gb=0.1)).estimate.usd_per_month
    assert paid - judge(WORK, POOL).estimate.usd_per_month == pytest.approx(0.003 * 0.1 * SECONDS_PER_MONTH)


def test_all_stages_share_a_control_plane_and_fill_machines_before_the_next_is_rented():
    target = replace(POOL, machines=(G6_4,), shares_machines=True)
    verdict = judge(WORK, target)
    assert together_usd(target, [verdict] * 3) == pytest.approx(HOURS_PER_MONTH * 4.4 + 73.0)
    assert together_usd(target, [verdict] * 5) == pytest.approx(HOURS_PER_MONTH * 8.8 + 73.0)
    assert together_usd(target, [verdict, judge(replace(WORK, budget_s=0.1), target)]) is None


def test_the_cheapest_within_the_budget_is_recommended():
    rare = replace(WORK, requests_per_s=1e-4)
    verdicts = advise(rare, [LAMBDA, POOL, TO_ZERO])
    assert [v.within_budget for v in verdicts] == [False, True, False]
    assert recommend(verdicts).target == "pool"
    assert recommend(advise(WORK, [LAMBDA, POOL])).target == "lambda"
    assert recommend(advise(rare, [LAMBDA])) is None


def test_break_even_of_calls_and_a_machine():
    """The pool costs 803 a month up to 5.9 requests/s; calls cost 263 a month for one request/s."""
    rate = break_even_per_s(WORK, LAMBDA, POOL)
    assert rate == pytest.approx(803.0 / 263.0, rel=0.01)
    assert break_even_per_s(WORK, POOL, LAMBDA) == pytest.approx(rate)


def test_no_break_even_where_one_is_always_cheaper_or_infeasible():
    assert break_even_per_s(WORK, POOL, replace(POOL, usd_per_month=0.0)) is None
    assert break_even_per_s(WORK, POOL, POOL) is None
    assert break_even_per_s(replace(WORK, vcpu=None), LAMBDA, POOL) is None


def test_work_that_takes_the_budget_cannot_be_sized():
    with pytest.raises(ValueError, match="do not fit"):
        replicas_needed(WORK, CallTiming(call_s=1.0, first_s=1.0))


works = st.builds(
    replace,
    st.just(WORK),
    requests_per_s=st.floats(0.0, 500.0),
    calls_per_request=st.floats(0.1, 16.0),
    weights_bytes=st.floats(1e6, 40 * GB),
    request_bytes=st.floats(0.0, 2e7),
    streams=st.booleans(),
    budget_s=st.floats(0.05, 5.0),
    vcpu=st.none() | st.floats(0.1, 50.0).map(lambda s: CallTiming(call_s=s, first_s=s)),
    variability=st.floats(1.0, 20.0),
)
targets = st.builds(
    replace,
    st.sampled_from([LAMBDA, POOL, TO_ZERO, replace(POOL, machines=(G6, G6_4), shares_machines=True)]),
    name=st.sampled_from("abcdef"),
    usd_per_gb=st.floats(0.0, 0.1),
    offered=st.sampled_from([True, True, True, False]),
)


@given(works, targets, st.floats(1.0, 10.0))
def test_cost_grows_with_the_rate(work, target, factor):
    """Of the cheapest place, as long as it is feasible."""
    low = judge(work, target).estimate
    high = judge(replace(work, requests_per_s=work.requests_per_s * factor), target).estimate
    if low and high:
        assert low.usd_per_month <= high.usd_per_month * (1 + 1e-9)


@given(works, st.lists(targets, max_size=5))
def test_an_infeasible_target_is_never_recommended(work, known):
    verdicts = advise(work, known)
    for verdict in verdicts:
        assert verdict.feasible == (not verdict.obstacles)
    best = recommend(verdicts)
    if best:
        assert best.feasible
        assert best.estimate.latency_p99_s <= work.budget_s
    else:
        assert not any(v.feasible and v.within_budget for v in verdicts)


@given(works, targets, targets)
def test_costs_are_equal_at_the_break_even_rate(work, one, other):
    """Within rounding to whole machines: they differ by no more than the step in which they cross."""
    rate = break_even_per_s(work, one, other)
    if rate is None:
        return

    def gap(at):
        first, second = (judge(replace(work, requests_per_s=at), t).estimate for t in (one, other))
        return first.usd_per_month - second.usd_per_month

    below, above = gap(rate * (1 - 1e-8)), gap(rate)
    assert below * above <= 0.0
    step = HOURS_PER_MONTH * max(m.usd_per_h for m in (G6, G6_4))
    assert min(abs(below), abs(above)) <= step


@given(works, targets)
def test_a_verdict_on_a_target_does_not_depend_on_the_others(work, target):
    assert advise(work, [POOL, target, LAMBDA])[1] == judge(work, target)


@given(works)
def test_sized_replicas_keep_the_budget_and_one_less_does_not(work):
    timing = WORK.timings[L4]
    if timing.first_s < work.budget_s:
        found = judge(replace(work, weights_bytes=1.0), POOL).estimate
        assert found.latency_p99_s <= work.budget_s
        assert found.replicas == replicas_needed(work, timing)
