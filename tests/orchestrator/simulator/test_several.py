"""Several services on one fleet: each has its own outcomes, and what is spent adds up."""

from pathlib import Path

import numpy as np
import pytest

from orchestrator.simulator.fleet_spec import FleetError
from orchestrator.simulator.outcomes import Ending
from orchestrator.simulator.run import simulate
from orchestrator.simulator.scenario import load_subjects, scenario_of
from orchestrator.simulator.summary import summarise
from tests.orchestrator.simulator.test_simulate import POLICY, TRACE


def second_policy(folder: Path, edit: tuple[str, str] = ("", "")) -> Path:
    """Return a copy of the example under another name."""
    file = folder / "second.yaml"
    text = POLICY.read_text().replace("service: internvl-26b", "service: second")
    file.write_text(text.replace("../data", str(POLICY.parents[1] / "data")).replace(*edit))
    return file


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    return load_subjects([POLICY, second_policy(tmp_path_factory.mktemp("policies"))], [TRACE, None])


@pytest.fixture(scope="module")
def run(subjects):
    return simulate(scenario_of([subject.tenant() for subject in subjects], subjects[0].nodes))


def test_every_request_of_every_service_ends_once(run):
    for service in run.services:
        assert len(service.outcomes.ending) == 2_000
        assert not np.any(service.outcomes.ending == Ending.OPEN)


def test_what_the_services_spend_adds_up(run):
    whole, parts = summarise(run), [summarise(run.of(name)) for name in ("internvl-26b", "second")]
    assert whole.gpu_hours == pytest.approx(sum(part.gpu_hours for part in parts))
    assert whole.cost_usd == pytest.approx(sum(part.cost_usd for part in parts))
    assert whole.groups["all"].requests == sum(part.groups["all"].requests for part in parts)
    assert whole.fleet_provisioned == pytest.approx(sum(part.fleet_provisioned for part in parts))
    assert 0.0 < whole.fleet_busy < whole.fleet_provisioned < 1.0


def test_equal_scenarios_give_equal_outcomes(run):
    again = simulate(run.scenario)
    for first, second in zip(run.services, again.services, strict=True):
        np.testing.assert_array_equal(first.outcomes.ttft_s, second.outcomes.ttft_s)
        assert first.timeline == second.timeline


def test_with_room_for_both_neither_takes_from_the_other(subjects, run):
    """The default fleet has room for the maxima of both; replicas lie elsewhere, so times differ a little."""
    alone = summarise(simulate(subjects[0].scenario()))
    beside = summarise(run.of("internvl-26b"))
    assert beside.gpu_hours == pytest.approx(alone.gpu_hours, rel=0.02)
    assert beside.attainment == pytest.approx(alone.attainment, abs=0.01)


def test_services_of_one_fleet_have_names_of_their_own():
    with pytest.raises(FleetError, match="names of their own"):
        load_subjects([POLICY, POLICY], [TRACE, TRACE])


def test_policies_of_one_fleet_name_the_same_levels(tmp_path):
    other = second_policy(tmp_path, ("example.com/rack", "example.com/row"))
    with pytest.raises(FleetError, match=r"internvl-26b: .*rack; second: .*row"):
        load_subjects([POLICY, other], [TRACE, TRACE])
