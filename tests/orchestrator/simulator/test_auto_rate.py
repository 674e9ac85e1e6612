"""The rate `auto`: the busiest five minutes take 80 % of the fleet."""

import numpy as np
import pytest

from orchestrator.simulator.auto_rate import PEAK_S, RateError, accelerator_s
from orchestrator.simulator.scenario import load_subject, load_subjects
from tests.orchestrator.simulator.test_simulate import POLICY, TRACE

FLEET = "l40s=2x8,h100=8x8,h20=8x8"
ENCODERS = 16


@pytest.fixture(scope="module")
def found():
    return load_subject(POLICY, TRACE, fleet=FLEET, rate_scale="auto")


def test_the_scarcest_hardware_is_taken_to_80_percent(found):
    """Sixteen L40S encode; thinning takes requests at random, so the peak is near the goal and not on it."""
    encode_s, *_ = accelerator_s(found.control, found.workload).values()
    peak = np.bincount((found.workload.arrival_s // PEAK_S).astype(int), encode_s).max() / PEAK_S
    assert peak / ENCODERS == pytest.approx(0.8, rel=0.05)


def test_the_printed_number_gives_the_same_requests(found):
    note = found.notes[-1]
    assert note.endswith("the busiest 5 minutes take 80 % of the fleet")
    rate = float(note.removeprefix("rate scale ").split(":")[0])
    again = load_subject(POLICY, TRACE, fleet=FLEET, rate_scale=rate)
    assert again.workload.label == found.workload.label
    assert np.array_equal(again.workload.arrival_s, found.workload.arrival_s)


def test_of_several_services_none_has_a_rate_of_its_own():
    with pytest.raises(RateError, match="for one service"):
        load_subjects([POLICY, POLICY], [TRACE, TRACE], rate_scale="auto")
