"""Requests beyond the context or any replica: refused with a reason, counted as missed, in nobody's way."""

from dataclasses import replace

import numpy as np
import pytest

from orchestrator.core.admission import fits_context
from orchestrator.core.types import Reason
from orchestrator.simulator.auto_rate import auto_rate_scale
from orchestrator.simulator.foresight import needs
from orchestrator.simulator.outcomes import Ending
from orchestrator.simulator.run import simulate
from orchestrator.simulator.scenario import load_subject
from orchestrator.simulator.servable import in_context, servable
from orchestrator.simulator.summary import summarise
from orchestrator.simulator.systems import SYSTEMS
from orchestrator.simulator.workload import TRACED_IMAGE_TOKENS, Workload
from tests.orchestrator.simulator.test_simulate import POLICY, TRACE

HUGE = {"context_tokens": 50_000_000, "output_tokens": 50_000_000, "images": 5_000}


@pytest.fixture(scope="module")
def subject():
    whole = load_subject(POLICY, TRACE)
    return replace(whole, workload=whole.workload.slice(0.0, 120.0))


@pytest.fixture(scope="module")
def endless(subject):
    """Return the same without a `max_context`: only replicas bound what is served."""
    return replace(subject, control=replace(subject.control, max_context=None))


def with_one(work: Workload, column: str, at: int = 100) -> Workload:
    """Return the requests with one more, huge in one column, between two others."""
    columns = {c: np.insert(getattr(work, c), at, getattr(work, c)[at]) for c in (*HUGE, "arrival_s")}
    columns[column][at] = HUGE[column]
    return replace(work, **columns)


@pytest.mark.parametrize(
    ("max_context", "reason"),
    [
        pytest.param(None, Reason.TOO_LARGE, id="replica"),
        pytest.param(32_768, Reason.CONTEXT_LENGTH_EXCEEDED, id="context"),
    ],
)
@pytest.mark.parametrize("column", HUGE)
def test_one_is_refused_and_the_others_fare_as_without_it(subject, column, max_context, reason):
    subject = replace(subject, control=replace(subject.control, max_context=max_context))
    given = replace(subject, workload=with_one(subject.workload, column))
    plain, run = simulate(subject.scenario()), simulate(given.scenario())
    outcomes = run.only.outcomes
    assert outcomes.ending[100] == Ending.REFUSED
    assert not outcomes.attained[100]
    assert run.only.reasons[None, reason] == 1
    assert summarise(run).refusals == {reason: 1}
    np.testing.assert_array_equal(np.delete(outcomes.ttft_s, 100), plain.only.outcomes.ttft_s)
    assert run.only.timeline == plain.only.timeline


@pytest.mark.parametrize("column", HUGE)
@pytest.mark.parametrize("which", ["subject", "endless"])
def test_nothing_is_provided_for_one(request, which, column):
    subject = request.getfixturevalue(which)
    given = replace(subject, workload=with_one(subject.workload, column))
    for stage, counts in needs(subject).items():
        np.testing.assert_array_equal(needs(given)[stage], counts)
    rates = [auto_rate_scale(each.control, each.workload, each.nodes) for each in (subject, given)]
    assert rates[0] == rates[1]


def test_the_context_holds_images_prompt_and_completion(subject):
    """Two images of 1,280 tokens, 40 of text and 8 said: 2,608 positions."""
    work = subject.workload.slice(0.0, 1.0)
    each = {"images": 2, "context_tokens": 2 * TRACED_IMAGE_TOKENS + 40, "output_tokens": 8}
    alike = replace(work, **{name: np.full(len(work), n, np.int32) for name, n in each.items()})
    for most, fits in ((2_608, True), (2_607, False)):
        assert in_context(replace(subject.control, max_context=most), alike).all() == fits


def test_the_gateway_refuses_at_the_same_length():
    assert fits_context(2_600, 8, 2_608)
    assert not fits_context(2_600, 9, 2_608)
    assert fits_context(10**9, 1, None)


def test_requests_beyond_the_context_are_noted(subject):
    """Of the shipped window four are, once images are clipped."""
    assert "4 requests are refused as context-length-exceeded, more than the 32768" in subject.notes[-1]
    assert summarise(simulate(subject.scenario())).refusals == {}, "none of them in the first two minutes"


def test_it_depends_on_what_a_replica_keeps_beside_its_weights(endless):
    """A decode replica keeps the completion as well; prefill alone would have room for the prompt."""
    control, work = endless.control, endless.workload.slice(0.0, 1.0)
    most = 640_000  # positions of 192 KiB in 90 % of 4 × 96 or 141 GB less 40 GB of weights are more
    prompt = replace(work, context_tokens=np.full(len(work), most, np.int32), images=0 * work.images)
    assert servable(control, prompt, SYSTEMS["e-p-d"]).any()
    both = replace(prompt, output_tokens=np.full(len(work), 10 * most, np.int32))
    assert not servable(control, both, SYSTEMS["e-p-d"]).any()


def test_a_policy_that_no_request_suits_still_says_so(tmp_path):
    """All requests are too large: nothing divides by their mean."""
    rows = "".join(f"2024-10-16T08:36:{s:02d}Z,0,90000000,5\n" for s in range(30))
    trace = tmp_path / "huge.csv"
    trace.write_text(f"TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n{rows}")
    subject = load_subject(POLICY, trace)
    assert "30 requests are refused as context-length-exceeded" in subject.notes[-1]
    assert summarise(simulate(subject.scenario())).endings["refused"] == 30
