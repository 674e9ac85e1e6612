"""Whole simulations: conservation, determinism, Little's law, work conservation, and control."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.core.changes import Changes, Create
from orchestrator.core.scaling.static import StaticParams
from orchestrator.simulator.compare import compare_policies
from orchestrator.simulator.outcomes import Ending
from orchestrator.simulator.run import Simulation, simulate
from orchestrator.simulator.scenario import load_subject
from orchestrator.simulator.summary import summarise
from orchestrator.simulator.systems import SYSTEMS
from stages.types import Stage

ROOT = Path(__file__).parents[3]
POLICY = ROOT / "policies/internvl-26b.yaml"
TRACE = ROOT / "data/traces/azure_lmm_window_2024-10-16.csv"
AMPLE = StaticParams(encode=48, prefill=8, decode=8)


def of_any_length(subject):
    """Return it without a `max_context`, which a few requests of the window exceed: all can be served."""
    return replace(subject, control=replace(subject.control, max_context=None))


@pytest.fixture(scope="module")
def subject():
    return of_any_length(load_subject(POLICY, TRACE))


def test_every_request_ends_once(subject):
    """Answered, refused or expired: the endings add up to what was offered."""
    run = simulate(subject.scenario())
    assert len(run.only.outcomes.ending) == 2_000
    assert not np.any(run.only.outcomes.ending == Ending.OPEN)
    assert sum(summarise(run).endings.values()) == 2_000


def test_equal_seeds_give_equal_outcomes(subject):
    first, second = simulate(subject.scenario(seed=3)), simulate(subject.scenario(seed=3))
    np.testing.assert_array_equal(first.only.outcomes.ttft_s, second.only.outcomes.ttft_s)
    assert first.only.timeline == second.only.timeline
    assert first.only.accelerator_s == second.only.accelerator_s


def test_ample_replicas_answer_everything_in_time(subject):
    summary = summarise(simulate(subject.scenario(scaling="static", params=AMPLE)))
    assert summary.endings["answered"] == 2_000
    assert summary.groups["all"].attainment > 0.99


def test_fixed_replicas_cost_their_number_times_the_span(subject):
    scenario = subject.scenario(scaling="static", params=AMPLE)
    run = simulate(scenario)
    accelerators = sum(create.tp for create in scenario.first.create)
    assert sum(run.only.accelerator_s.values()) == pytest.approx(accelerators * run.span_s)


def test_the_number_in_the_system_is_the_rate_times_the_mean_time_there(subject):
    """Little's law: requests seen in queues and replicas, against what the outcomes say, within 1 %."""
    simulation, seen = Simulation(subject.scenario()), []
    for tick in range(20_000):
        simulation.clock.at(0.05 * tick + 0.013, lambda _: seen.append(_in_system(simulation)), None)
    outcomes = simulation.run().only.outcomes
    answered = outcomes.ending == Ending.ANSWERED
    steps = subject.workload.output_tokens[answered] - 1
    stays_s = outcomes.ttft_s[answered] + outcomes.tpot_s[answered] * np.maximum(1, steps)
    assert np.all(answered | (outcomes.ending == Ending.REFUSED))
    assert float(np.mean(seen)) == pytest.approx(float(stays_s.sum()) / (0.05 * len(seen)), rel=0.01)


def _in_system(simulation):
    pools = simulation.services[0].pools
    hops = [*[hop for pool in pools for hop in pool.waiting()]]
    hops += [hop for pool in pools for replica in pool.replicas for hop in replica.running]
    return len({hop.request.index for hop in hops})


@pytest.mark.parametrize("system", [name for name in SYSTEMS if name != "e-p-d"])
def test_every_system_answers_everything_with_room(subject, system):
    """A hundred and twenty-eight A100s, four to a replica that does more than encode."""
    run = simulate(_on_a100s(subject.scenario(scaling="static", params=AMPLE), SYSTEMS[system].pools, system))
    assert np.all(run.only.outcomes.ending == Ending.ANSWERED)


def _on_a100s(scenario, pools, system):
    tenant = scenario.only
    tps = {stage: 1 if (stage,) in pools and stage is Stage.ENCODE else 4 for stage in Stage}
    stages = {s: replace(b, hardware=("a100",), tp=tps[s]) for s, b in tenant.control.stages.items()}
    creates = tuple(
        Create(service=tenant.name, stage=pool[0], hardware="a100", tp=tps[pool[0]], node_id=f"{n}")
        for pool in pools
        for n in range(48 // tps[pool[0]])
    )
    control = replace(tenant.control, stages=stages)
    tenant = replace(tenant, control=control, links=tenant.links[-1:], system=system)
    return replace(scenario, tenants=(tenant,), first=Changes(create=creates), scaled=False)


def test_control_adds_replicas_under_a_burst_and_costs_less_than_ample(subject):
    """The image burst makes coupled grow encode, at a fraction of the GPU-hours of ample replicas."""
    scaled = simulate(subject.scenario())
    ready = [moment.counts[Stage.ENCODE].ready for moment in scaled.only.timeline]
    assert max(ready) > ready[0]
    ample = summarise(simulate(subject.scenario(scaling="static", params=AMPLE)))
    assert summarise(scaled).gpu_hours < ample.gpu_hours


def test_foresight_attains_at_least_what_coupled_does(subject):
    found = compare_policies([subject], ["oracle", "coupled"], seed=0)
    assert found["oracle"].summary.attainment >= found["coupled"].summary.attainment
