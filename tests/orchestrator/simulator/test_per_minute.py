"""Counts by the minute: read, mixed by 5-minute windows, extended to a week."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.simulator.load import SHIPPED_PER_MINUTE, TRACES
from orchestrator.simulator.per_minute import PerMinute, read_per_minute, with_mix
from orchestrator.simulator.trace_file import TraceError

MIX = TRACES / "azure_lmm_5min_by_type_estimated_2024-10-15_19.csv"


def counts(requests: list[int]) -> PerMinute:
    values = np.array(requests, dtype=np.int64)
    half, one = np.full(len(values), 0.5), np.ones(len(values))
    return PerMinute(epoch_s=0.0, requests=values, image_share=half, images_each=one)


@pytest.fixture
def shipped() -> PerMinute:
    return with_mix(read_per_minute(SHIPPED_PER_MINUTE)[0], MIX)[0]


def test_the_shipped_days_have_their_published_totals(shipped: PerMinute) -> None:
    assert (len(shipped), shipped.requests.sum()) == (6_480, 715_279)
    assert shipped.image_requests().sum() == pytest.approx(344_730, abs=50)  # by day and type, exact
    assert shipped.image_requests()[:3].tolist() == [591, 591, 307]


def test_the_shipped_days_make_a_week_of_a_million(shipped: PerMinute) -> None:
    """Observed minutes stay; the others repeat the same time of day, thinned alike."""
    week = shipped.week(1_000_000)
    assert (len(week), week.requests.sum()) == (10_080, 1_000_000)
    assert np.array_equal(week.requests[:6_480], shipped.requests)
    assert np.corrcoef(week.requests[6_480:], shipped.requests[720:4_320])[0, 1] > 0.999
    assert week.label == "calibrated reconstruction, 36% of it by repetition"


@given(st.lists(st.integers(0, 99), min_size=1, max_size=40).filter(any), st.integers(0, 10**6))
def test_a_week_of_any_counts_has_exactly_the_total(requests: list[int], more: int) -> None:
    week = counts(requests).week(sum(requests) + more)
    assert (len(week), week.requests.sum()) == (10_080, sum(requests) + more)
    assert week.requests.min() >= 0


def test_a_week_with_less_than_was_observed_is_refused() -> None:
    with pytest.raises(ValueError, match="left"):
        counts([5, 5]).week(9)


@pytest.mark.parametrize(
    ("lines", "requests", "note"),
    [
        pytest.param(["00:00Z,3", "00:01Z,4"], [3, 4], "", id="in-order"),
        pytest.param(["00:01Z,4", "00:00Z,3"], [3, 4], "sorted 1 minutes", id="unsorted"),
        pytest.param(["00:00Z,3", "00:03Z,4"], [3, 0, 0, 4], "2 minutes are not in the file", id="gap"),
    ],
)
def test_per_minute_files(tmp_path: Path, lines: list[str], requests: list[int], note: str) -> None:
    found, notes = read_per_minute(_file(tmp_path, lines))
    assert found.requests.tolist() == requests
    assert found.epoch_s == 1_767_225_600.0
    assert (note in "; ".join(notes)) if note else not notes


@pytest.mark.parametrize(
    ("lines", "row", "column", "message"),
    [
        pytest.param(["00:00Z,3", "00:00Z,4"], 3, "timestamp", "there twice", id="twice"),
        pytest.param(["00:00Z,-3"], 2, "requests", "negative", id="negative"),
        pytest.param(["00:00Z,3.5"], 2, "requests", "not a count", id="fraction"),
        pytest.param(["00:00Z,nan"], 2, "requests", "absurd", id="not-a-number"),
        pytest.param(["00:00Z,many"], 2, "requests", "not a number", id="word"),
        pytest.param(["noon,3"], 2, "timestamp", "not a time", id="no-time"),
        pytest.param(["00:00Z"], 2, "requests", "only 1 cells", id="short"),
        pytest.param(["00:00Z,0"], 0, "requests", "no minute has a request", id="nothing"),
        pytest.param([], 0, "", "no rows", id="empty"),
    ],
)
def test_what_is_no_per_minute_file(
    tmp_path: Path, lines: list[str], row: int, column: str, message: str
) -> None:
    with pytest.raises(TraceError) as caught:
        read_per_minute(_file(tmp_path, lines))
    assert (caught.value.row, caught.value.column) == (row, column)
    assert message in str(caught.value)


def test_windows_that_a_mix_lacks_are_noted(tmp_path: Path) -> None:
    found, _ = read_per_minute(_file(tmp_path, ["00:00Z,3", "00:07Z,4"]))
    mix = tmp_path / "mix.csv"
    mix.write_text("window_start,text_est,image_est,images_est\n2026-01-01T00:05Z,1,3,9\n")
    mixed, notes = with_mix(found, mix)
    assert mixed.image_share.tolist() == [0.5] * 5 + [0.75] * 3
    assert notes == ("1 of 2 windows are not in mix.csv: 50% of their requests have images",)


def _file(folder: Path, lines: list[str]) -> Path:
    file = folder / "minutes.csv"
    file.write_text("timestamp,requests\n" + "".join(f"2026-01-01T{line}\n" for line in lines))
    return file
