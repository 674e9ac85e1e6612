"""The trace twin keeps what it promises to keep, and comes close in the rest."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.simulator.calibration import Calibration, calibrate, clustering, per_minute
from orchestrator.simulator.calibration_tables import read_images
from orchestrator.simulator.load import SHIPPED_PER_MINUTE, TRACES, load_tables
from orchestrator.simulator.measures import dispersion_within, ks_distance
from orchestrator.simulator.per_minute import PerMinute
from orchestrator.simulator.traces import read_trace
from orchestrator.simulator.twin import trace_twin
from orchestrator.simulator.twin_report import Statistic, table_report, twin_report
from orchestrator.simulator.workload import Workload
from tests.orchestrator.simulator.test_per_minute import counts


@pytest.fixture(scope="module")
def window() -> Workload:
    return read_trace(TRACES / "azure_lmm_window_2024-10-16.csv")[0]


@pytest.fixture(scope="module")
def shipped() -> tuple[PerMinute, Calibration]:
    return load_tables(SHIPPED_PER_MINUTE)[:2]


@pytest.fixture(scope="module")
def days(shipped: tuple[PerMinute, Calibration]) -> Workload:
    return trace_twin(*shipped, np.random.default_rng(1))


@pytest.fixture(scope="module")
def days_report(shipped: tuple[PerMinute, Calibration], days: Workload) -> Mapping[str, Statistic]:
    return {row.name: row for row in table_report(days, *shipped)}


def _by_minute(load: Workload, minutes: int) -> np.ndarray:
    return np.bincount((load.arrival_s // 60).astype(int), minlength=minutes)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=30), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_counts_of_every_minute_and_images_of_every_window_are_exact(
    requests: list[int], share: float, seed: int
) -> None:
    minutes = replace(counts(requests), image_share=np.full(len(requests), share))
    calibration = load_tables(SHIPPED_PER_MINUTE)[1]
    load = trace_twin(minutes, calibration, np.random.default_rng(seed))
    window = (load.arrival_s // 300).astype(int)
    image_requests = np.bincount(window, weights=load.images > 0, minlength=len(minutes.image_requests()))
    assert _by_minute(load, len(minutes)).tolist() == requests
    assert image_requests.tolist() == minutes.image_requests().tolist()


def test_equal_seeds_give_equal_twins(shipped: tuple[PerMinute, Calibration], days: Workload) -> None:
    again, other = (trace_twin(*shipped, np.random.default_rng(seed)) for seed in (1, 2))
    for column in ("arrival_s", "images", "context_tokens", "output_tokens"):
        assert np.array_equal(getattr(again, column), getattr(days, column))
        assert not np.array_equal(getattr(other, column), getattr(days, column))


def test_the_shipped_days_keep_every_minute(shipped: tuple[PerMinute, Calibration], days: Workload) -> None:
    assert np.array_equal(_by_minute(days, len(shipped[0])), shipped[0].requests)
    assert days.label == "calibrated reconstruction"
    assert days.epoch_s == 1_728_993_600.0  # 2024-10-15T12:00Z


@pytest.mark.parametrize(
    "name",
    [
        "requests per minute",
        "images per image request",
        "context tokens, text",
        "context tokens, image",
        "output tokens, text",
        "output tokens, image",
    ],
)
def test_the_shipped_days_have_the_published_distributions(
    days_report: Mapping[str, Statistic], name: str
) -> None:
    ks = days_report[f"{name}, p50"].ks
    assert ks is not None
    assert ks < 0.001


@pytest.mark.parametrize(
    ("name", "relative"),
    [
        ("image share", 0.001),
        ("index of dispersion, by minute", 1e-9),
        ("images per image request, mean", 0.01),
        ("context tokens, image, p99", 0.01),
        ("arrivals together", 0.05),
        ("rank correlation, context and output, text", 0.05),
    ],
)
def test_the_shipped_days_have_the_published_numbers(
    days_report: Mapping[str, Statistic], name: str, relative: float
) -> None:
    assert days_report[name].twin == pytest.approx(days_report[name].real, rel=relative)


def test_context_grows_less_than_images(days_report: Mapping[str, Statistic]) -> None:
    """Medians given the images stay within 30 %: so far do those published contradict the quantiles."""
    medians = [row for name, row in days_report.items() if name.startswith("context tokens of")]
    assert len(medians) == 10
    for row in medians:
        assert row.twin == pytest.approx(row.real, rel=0.3)
    one, many = (days_report[f"context tokens of {images} images, p50"].twin for images in (1, 529))
    assert 20 < many / one < 40


def test_days_differ_in_images_as_published(days: Workload) -> None:
    """Images per image request by day: 31.0, 11.4, 6.6, 63.7, 12.5 are true. Order and swing must show."""
    day = ((days.epoch_s + days.arrival_s) // 86_400).astype(int)
    each = np.bincount(day - day[0], weights=days.images) / np.bincount(day - day[0], weights=days.images > 0)
    assert np.argsort(each).tolist() == np.argsort([31.0, 11.4, 6.6, 63.7, 12.5]).tolist()
    assert each.max() / each.min() > 5


def test_a_twin_of_the_window_looks_like_the_window(window: Workload) -> None:
    twin = trace_twin(per_minute(window), calibrate(window), np.random.default_rng(1))
    report = {row.name: row for row in twin_report(twin, window)}
    distances = {name: row.ks for name, row in report.items() if row.ks is not None}
    assert len(distances) == 7
    assert distances.pop("gap, s, p50") < 0.06
    assert max(distances.values()) < 0.02
    correlation = report["rank correlation, images and context"]
    assert correlation.twin == pytest.approx(correlation.real, abs=0.1)


@pytest.mark.parametrize("cell_s", [1.0, 5.0, 10.0, 30.0])
def test_arrivals_cluster_within_the_minute_as_in_the_window(window: Workload, cell_s: float) -> None:
    """Poisson arrivals would give 1.0 in each case, where the window has 1.4, 3.2, 5.4 and 13.4."""
    minutes, calibration = per_minute(window), calibrate(window)
    twins = [
        dispersion_within(
            trace_twin(minutes, calibration, np.random.default_rng(seed)).arrival_s, 60.0, cell_s
        )
        for seed in range(30)
    ]
    assert np.mean(twins) == pytest.approx(dispersion_within(window.arrival_s, 60.0, cell_s), rel=0.3)


@pytest.mark.parametrize(("name", "ks"), [("conv", 0.05), ("code", 0.3)])
def test_text_traces_have_twins_too(name: str, ks: float) -> None:
    """The code trace has bursts within the second, where the twin is Poisson: hence its bound."""
    real, _ = read_trace(TRACES / f"azure_llm_2023_{name}.csv.gz")
    twin = trace_twin(per_minute(real), calibrate(real), np.random.default_rng(1))
    assert not twin.images.any()
    assert ks_distance(np.diff(twin.arrival_s), np.diff(real.arrival_s)) < ks
    assert clustering(twin) == pytest.approx(clustering(real), abs=0.15)


def test_the_tail_of_images_has_the_released_mean() -> None:
    images, probability = read_images(TRACES / "azure_lmm_numimages_pmf.csv")
    assert probability.sum() == pytest.approx(1)
    assert images @ probability == pytest.approx(28.66434)
    assert images[-1] == 9_409
    assert np.all(np.sqrt(images) % 1 == 0)
