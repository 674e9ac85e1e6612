"""The rate `auto`: the busiest five minutes take 80 % of the fleet under its best fixed counts."""

from dataclasses import replace

import numpy as np
import pytest

from orchestrator.simulator.auto_rate import PEAK_S, RateError, accelerator_s, auto_rate_scale
from orchestrator.simulator.scenario import load_subject, load_subjects
from tests.orchestrator.simulator.test_simulate import POLICY, ROOT, TRACE

FLEET = "l40s=2x8,h100=8x8,h20=8x8"
ENCODERS = 16
ONE_TYPE = ROOT / "policies/examples/scaling/coupled.yaml"


@pytest.fixture(scope="module")
def found():
    return load_subject(POLICY, TRACE, fleet=FLEET, rate_scale="auto")


def test_the_scarcest_hardware_is_taken_to_80_percent(found):
    """Sixteen L40S encode; thinning takes requests at random, so the peak is near the goal and not on it."""
    encode_s, *_ = accelerator_s(found.control, found.workload).values()
    peak = np.bincount((found.workload.arrival_s // PEAK_S).astype(int), encode_s).max() / PEAK_S
    assert peak / ENCODERS == pytest.approx(0.8, rel=0.05)


def test_the_printed_number_gives_the_same_requests(found):
    note = next(each for each in found.notes if "80 %" in each)
    assert "take 80 % of the best fixed counts" in note
    assert "encode 16.0, prefill" in note
    rate = float(note.removeprefix("rate scale ").split(":")[0])
    again = load_subject(POLICY, TRACE, fleet=FLEET, rate_scale=rate)
    assert again.workload.label == found.workload.label
    assert np.array_equal(again.workload.arrival_s, found.workload.arrival_s)


def test_stages_whose_peaks_are_at_different_times_share_the_fleet_by_their_own_peaks():
    """Images in the first five minutes, long completions in the last: fixed counts are for both."""
    given = load_subject(ONE_TYPE, TRACE, fleet="a100=16x8")
    work = given.workload
    early = work.arrival_s < PEAK_S
    work = replace(
        work,
        images=np.where(early, work.images, 0).astype(np.int32),
        output_tokens=np.where(early, 1, 2_000).astype(np.int32),
    )
    rate = auto_rate_scale(given.control, work, given.nodes)
    window = (work.arrival_s // PEAK_S).astype(int)
    busy = [np.bincount(window, each_s) / PEAK_S for each_s in accelerator_s(given.control, work).values()]
    assert {int(each.argmax()) for each in busy} == {0, 1}
    assert rate * sum(each.max() for each in busy) == pytest.approx(0.8 * 128)
    assert rate * sum(busy).max() < 0.75 * 128


def test_a_stage_is_counted_on_its_first_hardware_that_the_fleet_has():
    """Decode names H20 before H100; both then share what there is of H100."""
    found = load_subject(POLICY, TRACE, fleet="l40s=8x8,h100=8x8", rate_scale="auto")
    assert "80 %" in "".join(found.notes)
    with pytest.raises(RateError, match="nothing that prefill runs on: h100"):
        auto_rate_scale(found.control, found.workload, [n for n in found.nodes if n.hardware == "l40s"])


def test_of_several_services_none_has_a_rate_of_its_own():
    with pytest.raises(RateError, match="for one service"):
        load_subjects([POLICY, POLICY], [TRACE, TRACE], rate_scale="auto")
