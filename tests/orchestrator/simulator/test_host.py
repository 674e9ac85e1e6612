"""Processes on cores: who runs when, and that work is conserved."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.simulator.clock import Clock
from orchestrator.simulator.host import Host, Process
from tests.orchestrator.simulator.machines import machine


def run(shared, works):
    """Return when each process ends that begins with so much work at 0 s, and the host."""
    clock, ends = Clock(), {}
    host = Host(clock, shared, np.random.default_rng(0))
    for name, work_s in enumerate(works):
        Process(host).run(work_s, lambda name: ends.__setitem__(name, clock.now_s), name)
    clock.run_all()
    return [ends[name] for name in range(len(works))], host


def test_a_process_alone_takes_as_long_as_its_work():
    ends, _ = run(machine(), [0.05])
    assert ends == pytest.approx([0.05])


def test_two_processes_find_two_cores():
    ends, _ = run(machine(cores=2, seek=1.0), [0.05, 0.03])
    assert ends == pytest.approx([0.05, 0.03])


def test_on_one_core_they_take_turns_of_a_slice():
    """10 ms and 10 ms in slices of 4: a a4 b4 a4 b4 a2 b2."""
    ends, _ = run(machine(cores=1, slice_s=0.004), [0.010, 0.010])
    assert ends == pytest.approx([0.018, 0.020])


def test_a_short_job_waits_for_the_rest_of_a_slice():
    ends, _ = run(machine(cores=1, slice_s=0.004), [0.100, 0.001])
    assert ends == pytest.approx([0.101, 0.005])


def test_a_core_that_is_free_takes_over_who_waits():
    """Both begin on one core, as neither looks for the other; after a slice the free core takes one."""
    clock, ends = Clock(), []
    host = Host(clock, machine(cores=2, slice_s=0.004, seek=0.0), np.random.default_rng(1))
    for _ in range(8):
        Process(host).run(0.02, ends.append, None)
    clock.run_all()
    assert clock.now_s == pytest.approx(0.08, abs=0.02)


def test_work_that_finds_its_process_asleep_costs_more():
    clock, ends = Clock(), []
    process = Process(Host(clock, machine(), np.random.default_rng(0)), wake_s=0.5)
    process.run(1.0, lambda _: process.run(1.0, ends.append, None), None)
    clock.run_all()
    assert clock.now_s >= 2.5
    assert clock.now_s < 2.6


def test_slowness_stretches_times_and_not_work():
    ends, host = run(machine(slowness=(2.0,)), [0.05])
    assert ends == pytest.approx([0.10])
    assert host.busy_s == pytest.approx(0.05)


@given(
    st.lists(st.floats(1e-4, 0.1), min_size=1, max_size=12),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_work_is_conserved(works, cores, seek):
    """Nobody is lost, nobody ends before its own work could be done, nor all before the cores could do it."""
    ends, host = run(machine(cores=cores, seek=seek), works)
    assert host.busy_s == pytest.approx(sum(works))
    assert all(end >= work * (1 - 1e-6) for end, work in zip(ends, works, strict=True))
    assert max(ends) >= sum(works) / cores * (1 - 1e-6)
