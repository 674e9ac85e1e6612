"""Times of steps, and of starts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.profile import ColdStart, DecodeTiming, PrefillTiming

PREFILL = PrefillTiming(points=((512, 0.040), (2048, 0.130), (4096, 0.260)), floor_s=0.010)


@st.composite
def prefill_timings(draw):
    steps = draw(st.lists(st.tuples(st.integers(1, 4096), st.floats(0.0, 1.0)), min_size=1, max_size=5))
    tokens, seconds, points = 0, draw(st.floats(0.001, 0.1)), []
    for more_tokens, more_s in steps:
        tokens, seconds = tokens + more_tokens, seconds + more_s
        points.append((tokens, seconds))
    return PrefillTiming(points=tuple(points), floor_s=draw(st.floats(0.0, 0.2)))


@pytest.mark.parametrize(
    ("tokens", "seconds"),
    [
        pytest.param(0, 0.0, id="none"),
        pytest.param(256, 0.025, id="between-floor-and-first"),
        pytest.param(512, 0.040, id="measured"),
        pytest.param(1280, 0.085, id="between-points"),
        pytest.param(4096, 0.260, id="last"),
        pytest.param(8192, 0.520, id="beyond-at-the-last-rate"),
    ],
)
def test_step_s(tokens, seconds):
    assert PREFILL.step_s(tokens) == pytest.approx(seconds)


@given(prefill_timings(), st.floats(0.0, 50_000.0), st.floats(0.0, 50_000.0))
def test_a_step_of_more_tokens_never_takes_less_time(timing, a, b):
    low, high = (timing.step_s(tokens) for tokens in sorted((a, b)))
    assert low <= high * (1.0 + 1e-9)


@given(prefill_timings())
def test_a_measured_step_takes_the_measured_time(timing):
    for tokens, seconds in timing.points:
        assert timing.step_s(tokens) == pytest.approx(seconds)


def test_itl_s():
    timing = DecodeTiming(step_s=0.010, sequence_s=0.0001, context_token_s=1e-7)
    assert timing.itl_s(32, 32 * 1500) == pytest.approx(0.010 + 0.0032 + 0.0048)


def test_the_lead_of_a_start_is_its_longest_and_a_free_node_shortens_it():
    start = ColdStart(node_s=(150.0, 210.0), pull_s=(30.0, 60.0), load_s=(90.0, 240.0))
    assert (start.lead_s(node_free=True), start.lead_s(node_free=False)) == (300.0, 510.0)
