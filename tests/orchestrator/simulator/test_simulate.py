"""Whole simulations: conservation, determinism, Little's law, and control that follows the load."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.simulator.compare import compare_policies
from orchestrator.simulator.outcomes import Ending
from orchestrator.simulator.run import simulate
from orchestrator.simulator.scenario import load_subject
from orchestrator.simulator.summary import summarise
from stages.types import Stage

ROOT = Path(__file__).parents[3]
POLICY = ROOT / "policies/examples/internvl-26b.yaml"
TRACE = ROOT / "data/traces/azure_lmm_window_2024-10-16.csv"
AMPLE = {Stage.ENCODE: 48, Stage.PREFILL: 8, Stage.DECODE: 8}


@pytest.fixture(scope="module")
def subject():
    return load_subject(POLICY, TRACE)


def test_every_request_ends_once(subject):
    """Answered, refused or expired: the endings add up to what was offered."""
    run = simulate(subject.scenario())
    assert len(run.outcomes.ending) == 2_000
    assert not np.any(run.outcomes.ending == Ending.OPEN)
    assert sum(summarise(run).endings.values()) == 2_000


def test_equal_seeds_give_equal_outcomes(subject):
    first, second = simulate(subject.scenario(seed=3)), simulate(subject.scenario(seed=3))
    np.testing.assert_array_equal(first.outcomes.ttft_s, second.outcomes.ttft_s)
    assert first.timeline == second.timeline
    assert first.accelerator_s == second.accelerator_s


def test_ample_replicas_answer_everything_in_time(subject):
    summary = summarise(simulate(subject.scenario(counts=AMPLE)))
    assert summary.endings["answered"] == 2_000
    assert summary.groups["all"].attainment > 0.99


def test_fixed_replicas_cost_their_number_times_the_span(subject):
    run = simulate(subject.scenario(counts=AMPLE))
    accelerators = sum(AMPLE[stage] * subject.control.stages[stage].tp for stage in Stage)
    assert sum(run.accelerator_s.values()) == pytest.approx(accelerators * run.span_s)


@pytest.mark.parametrize("system", ["e-p-d", "ep-d", "e-pd", "monolith-round-robin", "monolith-least-work"])
def test_every_system_answers_everything_with_room(subject, system):
    scenario = subject.scenario(counts=AMPLE)
    if system != "e-p-d":
        scenario = _on_decode_hardware(scenario, system)
    run = simulate(scenario)
    assert np.all(run.outcomes.ending == Ending.ANSWERED)


def _on_decode_hardware(scenario, system):
    """Let every pool of several stages run on four A100s, which the profile has for all stages."""
    stages = {
        stage: replace(bounds, hardware=("a100",), tp=1 if stage is Stage.ENCODE and system == "e-pd" else 4)
        for stage, bounds in scenario.control.stages.items()
    }
    first = replace(
        scenario.first,
        create=tuple(
            replace(create, hardware="a100", tp=stages[create.stage].tp)
            for create in scenario.first.create
            if any(create.stage is pool[0] for pool in _pools(system))
        ),
    )
    return replace(scenario, control=replace(scenario.control, stages=stages), first=first, system=system)


def _pools(system):
    from orchestrator.simulator.systems import SYSTEMS

    return SYSTEMS[system].pools


def test_control_adds_replicas_under_a_burst_and_costs_less_than_ample(subject):
    """The image burst makes coupled grow encode, at a fraction of the GPU-hours of ample replicas."""
    scaled = simulate(subject.scenario())
    ready = [moment.counts[Stage.ENCODE].ready for moment in scaled.timeline]
    assert max(ready) > ready[0]
    ample = summarise(simulate(subject.scenario(counts=AMPLE)))
    assert summarise(scaled).gpu_hours < ample.gpu_hours


def test_foresight_attains_at_least_what_coupled_does(subject):
    found = compare_policies(subject, ["oracle", "coupled"], seed=0)
    assert found["oracle"].groups["all"].attainment >= found["coupled"].groups["all"].attainment
