"""What a policy or a command names becomes a workload."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from cli.paths import TRACES as CLI_TRACES
from orchestrator.simulator.load import SHIPPED_PER_MINUTE, TRACES, load_workload
from orchestrator.simulator.trace_file import TraceError


def test_a_path_is_a_trace() -> None:
    load, _ = load_workload(str(TRACES / "azure_lmm_window_2024-10-16.csv"), seed=0)
    assert (len(load), load.name) == (2_000, "azure_lmm_window_2024-10-16")


def test_the_week_is_a_million_requests_and_says_what_it_is() -> None:
    load, notes = load_workload("twin-week:", seed=0)
    assert len(load) == 1_000_000
    assert load.span_s == 7 * 86_400
    assert load.label == "calibrated reconstruction, 36% of it by repetition"
    assert "mix from azure_lmm_5min_by_type_estimated_2024-10-15_19.csv" in notes


def test_seeds_decide_the_twin() -> None:
    a, again, other = (load_workload(f"twin:{SHIPPED_PER_MINUTE}", seed=seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(a.arrival_s, again.arrival_s)
    assert not np.array_equal(a.arrival_s, other.arrival_s)


def test_any_per_minute_file_makes_a_twin(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("timestamp,requests\n2026-01-01T00:00Z,30\n2026-01-01T00:01Z,50\n")
    load, notes = load_workload(f"twin:{file}", seed=0)
    assert (len(load), load.span_s, np.count_nonzero(load.images)) == (80, 120.0, 40)
    assert "50% of all requests have images" in notes[0]
    week, _ = load_workload(f"twin-week:{file}", seed=0)
    assert len(week) == 40 * 10_080


@pytest.mark.slow
def test_tables_beside_the_counts_come_before_the_shipped_ones(tmp_path: Path) -> None:
    shutil.copy(SHIPPED_PER_MINUTE, file := tmp_path / "minutes.csv")
    (tmp_path / "my_numimages_pmf.csv").write_text("num_images,percent\n3,100\n")
    load, notes = load_workload(f"twin:{file}", seed=0)
    assert set(np.unique(load.images)) == {0, 3}
    assert "images from my_numimages_pmf.csv" in notes


@pytest.mark.parametrize(
    "spec", ["twin:missing.csv", "twin-week:missing.csv", "missing.csv", "twine:x.csv", ""]
)
def test_what_cannot_be_loaded_says_what_to_do(spec: str) -> None:
    with pytest.raises(TraceError) as caught:
        load_workload(spec, seed=0)
    assert caught.value.next_step


def test_a_bad_table_is_named(tmp_path: Path) -> None:
    shutil.copy(SHIPPED_PER_MINUTE, file := tmp_path / "minutes.csv")
    (tmp_path / "my_token_quantiles.csv").write_text("percentile,context_text\n50,1\n")
    with pytest.raises(TraceError, match=r"my_token_quantiles\.csv:1: column generated_text"):
        load_workload(f"twin:{file}", seed=0)


def test_commands_know_the_shipped_traces() -> None:
    assert CLI_TRACES == TRACES


def test_every_shipped_file_has_its_source() -> None:
    sources = (TRACES.parent / "SOURCES.md").read_text()
    for file in TRACES.iterdir():
        assert f"`{file.name}`" in sources
        assert file.stat().st_size < 3_000_000


@pytest.mark.slow
def test_a_trace_is_spliced_into_the_day_of_its_twin_behind_two_hours() -> None:
    """The twin has other requests in these ten minutes; around them it is the twin."""
    window, _ = load_workload(str(TRACES / "azure_lmm_window_2024-10-16.csv"), seed=0)
    day, _ = load_workload(f"splice:{TRACES / 'azure_lmm_window_2024-10-16.csv'}@", seed=0)
    twin, _ = load_workload("twin:", seed=0)
    inside = (day.arrival_s >= 7_200.0) & (day.arrival_s < 7_200.0 + window.span_s)
    assert np.array_equal(day.images[inside], window.images)
    assert day.epoch_s == pytest.approx(window.epoch_s - 7_200.0)
    before = twin.slice(day.epoch_s - twin.epoch_s, window.epoch_s - twin.epoch_s)
    assert np.array_equal(day.context_tokens[: len(before)], before.context_tokens)


def test_a_trace_longer_than_the_counts_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("timestamp,requests\n2026-01-01T00:00Z,30\n")
    with pytest.raises(TraceError, match="does not fit"):
        load_workload(f"splice:{TRACES / 'azure_lmm_window_2024-10-16.csv'}@{file}", seed=0)
