import numpy as np
import pytest

from experiments.e5_signals import judged
from experiments.monolith import MonolithScaler, as_monolith, monolith_scenario
from experiments.point import FULL, QUICK, Findings, Measured
from experiments.results import Answer, keep, written
from experiments.services import denser, subject, with_burst
from experiments.table import EXPERIMENTS
from orchestrator.simulator.auto_rate import FULL as FULL_FLEET
from orchestrator.simulator.auto_rate import accelerator_s, auto_rate_scale
from orchestrator.simulator.load import load_workload
from orchestrator.simulator.run import simulate
from orchestrator.simulator.summary import summarise

WINDOW = "data/traces/azure_lmm_window_2024-10-16.csv"


@pytest.fixture(scope="module")
def work(request):
    return load_workload(str(request.config.rootpath / WINDOW), seed=0)[0].clipped(16).slice(0.0, 300.0)


def test_a_burst_multiplies_image_requests_and_leaves_the_rest(work):
    burst = with_burst(work, at_s=100.0, for_s=60.0, factor=5.0, rng=np.random.default_rng(0))
    inside = (work.arrival_s >= 100.0) & (work.arrival_s < 160.0) & (work.images > 0)
    assert len(burst) - len(work) == 4 * inside.sum()
    assert np.all(np.diff(burst.arrival_s) >= 0)
    assert (burst.images == 0).sum() == (work.images == 0).sum()


def test_a_denser_day_has_as_many_requests_of_every_minute(work):
    dense = denser(work, 3.0, np.random.default_rng(0))
    assert len(dense) == 3 * len(work)
    assert np.mean(dense.output_tokens) == pytest.approx(np.mean(work.output_tokens), rel=0.1)


def test_the_auto_rate_fills_four_fifths_of_the_fleet_in_the_busiest_five_minutes(work):
    given = subject("internvl-26b", work, "a100=16x8")
    factor = auto_rate_scale(given.control, work, given.nodes)
    busy = sum(each.sum() for each in accelerator_s(given.control, work).values()) / 300.0
    assert factor * busy == pytest.approx(FULL_FLEET * 128)


def test_no_requests_have_no_rate(work):
    given = subject("internvl-26b", work.slice(0.0, 0.0), "a100=16x8")
    with pytest.raises(ValueError, match="auto needs requests"):
        auto_rate_scale(given.control, given.workload, given.nodes)


def test_a_monolith_scales_with_its_load(work):
    """A lower target asks for more replicas, and every request ends."""
    given = subject("internvl-26b", work, "a100=16x8")
    hours = []
    for target in (0.2, 0.8):
        scenario = monolith_scenario(given.tenant(), given.nodes, target, images_in_parallel=True, seed=0)
        assert isinstance(scenario.decider, MonolithScaler)
        summary = summarise(simulate(scenario))
        assert summary.endings["failed"] == 0
        hours.append(summary.gpu_hours)
    assert hours[0] > 2.0 * hours[1]


def test_a_monolith_has_four_accelerators_a_replica(work):
    given = subject("internvl-26b", work, "a100=16x8")
    whole = as_monolith(given.tenant(), images_in_parallel=False, most=32)
    assert (whole.system, whole.control.stages["encode"].tp) == ("monolith-least-work", 4)


def test_a_signal_that_follows_the_load_late_is_told_so():
    load = 10.0 + np.sin(np.arange(600) / 40.0)
    r2, snr_db, lag_s = judged(load, 3.0 * np.roll(load, 6) + 1.0)
    assert r2 == pytest.approx(1.0, abs=1e-3)
    assert lag_s == pytest.approx(30.0, abs=5.0)
    assert snr_db > 10.0


def test_noise_tells_nothing():
    load = 10.0 + np.sin(np.arange(600) / 40.0)
    r2, snr_db, _ = judged(load, np.random.default_rng(0).random(600))
    assert r2 < 0.3
    assert snr_db < 0.0


def test_a_constant_signal_has_no_figures():
    assert judged(np.arange(600.0), np.ones(600)) == (None, None, None)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_points_a_text_and_a_budget(name):
    experiment = EXPERIMENTS[name]
    for scale in (QUICK, FULL):
        points = experiment.points(scale)
        assert len(points) == len(set(points)) > 0
        assert all(experiment.expected_s(at, scale) > 0.0 for at in points)


def test_a_first_impression_takes_a_quarter_of_an_hour_on_two_cores():
    budgets_s = [sum(e.expected_s(at, QUICK) for at in e.points(QUICK)) for e in EXPERIMENTS.values()]
    assert sum(budgets_s) / 2 <= 15 * 60.0


def test_results_say_what_was_measured_how(tmp_path):
    """From rows alone: E6's, made up."""
    experiment = EXPERIMENTS["E6"]
    rows = {"ttft_p50_s": 1.0, "ttft_p99_s": 2.0, "attainment": 0.5, "racks": 3.0}
    measured = [
        Measured(point=at, seed=seed, row=rows, wall_s=60.0, code="c0de")
        for at in experiment.points(QUICK)
        for seed in (0, 1)
    ]
    text, plots = written(
        [Answer(experiment=experiment, findings=Findings(scale=QUICK, measured=measured))], date="2026-11-25"
    )
    keep(tmp_path, text, plots)
    kept = (tmp_path / "results.md").read_text()
    assert "[E6: Placement by topology](#e6-placement-by-topology), QUICK" in kept
    assert "QUICK: `tercet experiments E6 --quick`, 10 runs, up to 2 seeds, 10 minutes" in kept
    assert "| anywhere, at random | 1.00 ± 0.00 | 2.00 ± 0.00 | 50.0 ± 0.0 | 3.00 ± 0.00 |" in kept
