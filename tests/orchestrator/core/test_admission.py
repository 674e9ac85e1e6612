from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.admission import AdmissionBounds, admit, encode_held
from orchestrator.core.tagger import tag
from orchestrator.core.types import Admitted, MediaShape, Queued, Reason, Rejected, StageLoad
from stages.types import Modality, Stage

BOUNDS = AdmissionBounds(queue_s=10.0, prefill_backlog_s=0.5)
SERVED = frozenset({Modality.TEXT, Modality.IMAGE})


def load(backlog_s=0.0, replicas=1, rate=100.0):
    return StageLoad(live_replicas=replicas, backlog_tokens=round(backlog_s * rate), rate_tokens_per_s=rate)


def loads(**changed):
    return {stage: changed.get(stage.value, load()) for stage in Stage}


def request(images=0, text=10, modality=Modality.IMAGE):
    shape = MediaShape(modality=modality, tokens=9)
    return tag(text, [shape] * images, kappa=1, max_tokens=16)


@pytest.mark.parametrize(
    ("tagged", "load_of", "slack_s", "reason", "stage"),
    [
        pytest.param(
            request(), loads(prefill=load(10.01)), 60, Reason.BACKLOG_FULL, Stage.PREFILL, id="full"
        ),
        pytest.param(
            request(), loads(decode=load(99)), 60, Reason.BACKLOG_FULL, Stage.DECODE, id="full-decode"
        ),
        pytest.param(
            request(), loads(decode=load(replicas=0)), 60, Reason.NO_REPLICA, Stage.DECODE, id="no-replica"
        ),
        pytest.param(request(), {}, 60, Reason.NO_REPLICA, Stage.PREFILL, id="nothing-registered"),
        pytest.param(
            request(1, modality=Modality.AUDIO),
            loads(),
            60,
            Reason.MODALITY_UNSERVED,
            Stage.ENCODE,
            id="audio",
        ),
        pytest.param(request(), loads(), 0.0, Reason.DEADLINE_EXPIRED, Stage.PREFILL, id="expired-text"),
        pytest.param(request(1), loads(), -1.0, Reason.DEADLINE_EXPIRED, Stage.ENCODE, id="expired-image"),
        pytest.param(
            request(text=200), loads(), 1.9, Reason.DEADLINE_EXPIRED, Stage.PREFILL, id="work-exceeds-slack"
        ),
    ],
)
def test_refusals(tagged, load_of, slack_s, reason, stage):
    decision = admit(tagged, load_of, BOUNDS, SERVED, slack_s)
    assert isinstance(decision, Rejected)
    assert (decision.reason, decision.stage) == (reason, stage)


@pytest.mark.parametrize(
    ("tagged", "load_of"),
    [
        pytest.param(request(1), loads(), id="idle"),
        pytest.param(request(1), loads(prefill=load(0.5)), id="prefill-at-its-budget"),
        pytest.param(request(), loads(prefill=load(9.9)), id="text-under-prefill-backlog"),
        pytest.param(request(), loads(encode=load(99, replicas=0)), id="text-needs-no-encoder"),
        pytest.param(request(1), loads(encode=load(rate=0.0)), id="rate-unknown"),
    ],
)
def test_welcome(tagged, load_of):
    assert admit(tagged, load_of, BOUNDS, SERVED, 60.0) == Admitted()


def test_image_work_waits_while_prefill_is_behind_and_goes_on_after():
    behind = loads(prefill=load(0.51))
    assert admit(request(1), behind, BOUNDS, SERVED, 60.0) == Queued(reason=Reason.PREFILL_BACKPRESSURE)
    assert encode_held(behind[Stage.PREFILL], BOUNDS)
    assert not encode_held(load(0.5), BOUNDS)
    called = replace(BOUNDS, encode_waits=False)
    assert admit(request(1), behind, called, SERVED, 60.0) == Admitted()
    assert not encode_held(behind[Stage.PREFILL], called)


def test_a_tight_request_is_not_refused_for_a_backlog_that_it_would_overtake():
    assert admit(request(), loads(prefill=load(8.0)), BOUNDS, SERVED, 1.0) == Admitted()


@given(*[st.floats(0.0, 100.0)] * 3, st.integers(0, 3))
def test_retry_after_is_when_the_backlog_is_back_within_bounds(encode_s, prefill_s, decode_s, images):
    """A stage drains one backlog second per second."""
    now = {Stage.ENCODE: encode_s, Stage.PREFILL: prefill_s, Stage.DECODE: decode_s}
    decision = admit(request(images), {s: load(now[s]) for s in Stage}, BOUNDS, SERVED, 60.0)
    if isinstance(decision, Rejected):
        later = {s: load(max(now[s] - decision.retry_after_s, 0.0)) for s in Stage}
        # Backlogs are whole tokens, 1/100 s each.
        relaxed = AdmissionBounds(queue_s=BOUNDS.queue_s + 0.02, prefill_backlog_s=BOUNDS.prefill_backlog_s)
        assert decision.retry_after_s > 0
        assert not isinstance(admit(request(images), later, relaxed, SERVED, 60.0), Rejected)


@given(st.floats(0.0, 50.0), st.floats(0.0, 50.0), st.integers(0, 3))
def test_more_backlog_never_opens_the_door(a, b, images):
    """Admitted, queued, rejected: monotone in prefill's backlog."""
    rank = {Admitted: 0, Queued: 1, Rejected: 2}
    low, high = (
        rank[type(admit(request(images), loads(prefill=load(s)), BOUNDS, SERVED, 60.0))]
        for s in sorted((a, b))
    )
    assert low <= high
