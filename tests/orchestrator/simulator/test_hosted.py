"""Requests on a machine that gateway, Redis and workers share."""

from dataclasses import replace

import numpy as np
import pytest

from orchestrator.control_policy import Hardware
from orchestrator.core.profile import HardwareClass
from orchestrator.policy import load_policy
from orchestrator.profiles import find_profile
from orchestrator.profiles.pressure import Row
from orchestrator.simulator.closed_loop import closed_loop
from orchestrator.simulator.on_one_host import on_one_host, workload_of
from orchestrator.simulator.outcomes import Ending
from orchestrator.simulator.run import simulate
from stages.types import Stage
from tests.orchestrator.simulator.machines import machine

HARDWARE = Hardware.load()
POLICY = load_policy("policies/tiny.yaml")
CPU = HardwareClass("cpu", 1)
REPLICAS = {Stage.ENCODE: 2, Stage.PREFILL: 1, Stage.DECODE: 2}


def scenario(rows, arrival_s, host, seed=0):
    profile = replace(find_profile("tiny"), host=host)
    work = workload_of("test", rows, arrival_s, image_tokens=profile.image_tokens)
    return on_one_host(POLICY, profile, REPLICAS, work, HARDWARE, seed=seed)


def test_a_lone_text_request_takes_what_lies_on_its_way():
    """Two hops through gateway, Redis and worker, a prefill step, one write to Redis and one event."""
    host = machine(cores=2)
    run = simulate(scenario([Row(0, 9, 1)], [0.0], host))
    hops = 2 * (host.hop_s + host.store_hop_s) - host.hop_s / 2 - host.store_hop_s / 2
    workers = host.worker_hop_s[Stage.PREFILL] + host.worker_hop_s[Stage.DECODE]
    step_s = find_profile("tiny").prefill[CPU].step_s(9)
    expected = host.request_s + hops + workers + step_s + host.store_write_s + host.event_s
    assert run.only.outcomes.ttft_s[0] == pytest.approx(expected, rel=1e-4)


def test_what_comes_late_is_waited_for_by_nobody():
    on_time, late = (
        simulate(scenario([Row(0, 9, 1)], [0.0], machine(cores=2, late=late))).only.outcomes.ttft_s[0]
        for late in (0.0, 0.5)
    )
    assert late < on_time


def test_every_request_is_answered_and_every_hop_counted():
    rng = np.random.default_rng(0)
    rows = [
        Row(int(i), 40, int(o))
        for i, o in zip(rng.integers(0, 3, 200), rng.integers(1, 30, 200), strict=True)
    ]
    run = simulate(scenario(rows, np.cumsum(rng.exponential(0.05, 200)).tolist(), machine(cores=2)))
    assert (run.only.outcomes.ending == Ending.ANSWERED).all()
    hops = {stage: sum(n for (of, _), n in run.only.hops.items() if of is stage) for stage in Stage}
    assert hops[Stage.ENCODE] == sum(row.images for row in rows)
    assert hops[Stage.DECODE] == len(rows)


def test_equal_seeds_give_equal_runs_and_others_do_not():
    rows, arrival_s = [Row(1, 30, 12)] * 60, [0.01 * i for i in range(60)]
    host = machine(cores=2, seek=0.5, slowness=(0.8, 1.2))
    first, again, other = (
        simulate(scenario(rows, arrival_s, host, seed)).only.outcomes.ttft_s for seed in (1, 1, 2)
    )
    assert (first == again).all()
    assert (first != other).any()


def test_more_in_progress_means_more_throughput_up_to_the_cores():
    """One request at a time leaves a core idle; no concurrency gets more than the cores have."""
    host = machine(cores=2)
    rates = [
        closed_loop(scenario([Row(1, 30, 8)] * 150, [0.0] * 150, host), at).rate_per_s for at in (1, 4, 16)
    ]
    assert rates == sorted(rates)
    assert rates[2] < 2.2 * rates[0]


def test_only_a_shared_host_can_be_pressed():
    with pytest.raises(ValueError, match="not measured on a shared host"):
        closed_loop(scenario([Row(0, 9, 1)], [0.0], None), 1)
