import numpy as np
import pytest

from experiments.fleets import packed
from experiments.goodput import RATE_STEP, Bench, Slowdown, bound_per_s, goodputs, slowdown
from experiments.layouts import all_apart, monolith, splits
from experiments.services import base
from orchestrator.simulator.fleet_spec import parse_fleet
from orchestrator.simulator.load import load_workload
from stages.types import Stage

WINDOW = "data/traces/azure_lmm_window_2024-10-16.csv"


@pytest.fixture(scope="module")
def bench(request):
    policy, control = base("internvl-26b")
    work = load_workload(str(request.config.rootpath / WINDOW), seed=0)[0].clipped(16)
    return Bench(policy=policy, control=control, fleet="a100=16x8", work=work)


def server(capacity):
    """Slowdown grows with the rate: at `capacity` it is ten times the isolated time."""
    runs = []

    def run(rate):
        runs.append(rate)
        slow = np.full(100, 10.0 * rate / capacity)
        return Slowdown(ttft=slow, tpot=slow)

    return run, runs


def test_goodput_is_found_to_a_step_and_grows_with_the_factor():
    run, runs = server(40.0)
    found = goodputs(run, [5.0, 10.0, 20.0], 100.0)
    for goodput, exact in zip(found, [20.0, 40.0, 80.0], strict=True):
        assert exact / RATE_STEP <= goodput <= exact
    assert len(runs) < 20


def test_a_system_that_never_attains_has_no_goodput():
    run, _ = server(1e-6)
    assert goodputs(run, [5.0], 100.0) == [0.0]


def test_attainment_asks_for_both_times():
    slow = Slowdown(ttft=np.array([1.0, 9.0, 1.0, 1.0]), tpot=np.array([1.0, 1.0, 9.0, 1.0]))
    assert slow.attainment(5.0) == 0.5


def test_an_idle_system_is_not_slower_than_alone(bench):
    """Nor much faster: the reference is what a request takes by itself, transfers apart."""
    slow = slowdown(bench, all_apart(48, 5, 128), 0.05, seed=0)
    assert np.quantile(slow.ttft, 0.5) == pytest.approx(1.0, abs=0.35)
    assert np.quantile(slow.tpot, 0.5) == pytest.approx(1.0, abs=0.1)


def test_no_system_does_more_than_the_bound(bench):
    most = bound_per_s(bench.control, bench.work, 128)
    assert slowdown(bench, monolith("monolith-least-work", 128), 4.0 * most, seed=0).attainment(10.0) < 0.9


def test_splits_fill_the_fleet_and_no_more(bench):
    for family in ("e-pd", "ep-d", "e-p-d"):
        for layout in splits(family, bench, 128):
            taken = sum(count * layout.tp[stage] for stage, count in layout.counts.items())
            assert 128 - 4 < taken <= 128


def test_packed_mixes_the_stages_and_refuses_what_does_not_fit(bench):
    nodes = parse_fleet("a100=2x8", bench.control.levels)
    created = packed(bench.control, {Stage.ENCODE: 8, Stage.PREFILL: 1, Stage.DECODE: 1}, nodes).create
    assert len({create.node_id for create in created if create.stage is Stage.ENCODE}) == 2
    with pytest.raises(ValueError, match="do not fit into 16"):
        packed(bench.control, {Stage.ENCODE: 9, Stage.PREFILL: 1, Stage.DECODE: 1}, nodes)
