"""`tercet experiments`: what it refuses, writes without measuring, and leaves behind when it is stopped."""

import json
import signal
import subprocess
import sys

import psutil
import pytest

from experiments.point import QUICK, Measured, point
from experiments.store import Store
from tests.system.harness import ROOT, until
from tests.system.kit import tercet


def test_an_experiment_that_is_not_there_is_named():
    done = tercet("experiments", "E99", "--budget")
    assert done.code == 2
    assert "there is no experiment E99; there are E1, E2" in done.stderr


def test_what_is_left_to_measure_is_there_for_programs(tmp_path):
    done = tercet("experiments", "E6", "--quick", "--budget", "--json", "--rows", str(tmp_path))
    (found,) = json.loads(done.stdout)["experiments"].values()
    assert found["measured"] == []
    assert found["left"]["runs"] > 0
    assert found["left"]["work_s"] > found["left"]["runs"]


def test_results_are_written_from_rows_that_are_there(tmp_path):
    """By whatever code they were measured; nothing is measured for it."""
    row = {"gpu_hours": 12.5, "cost_usd": 30.0, "attainment": 0.995, "ttft_p99_s": 1.0, "rejected": 0.0}
    at = point(policy="static")
    Store(tmp_path / "rows", "E4", QUICK.name).add(
        Measured(point=at, seed=0, row={**row, "params": "none"}, wall_s=60.0, code="abcdef012345")
    )
    options = ("--budget", "--any-code", "--rows", str(tmp_path / "rows"), "--write", str(tmp_path))
    assert tercet("experiments", *options).code == 0
    text = (tmp_path / "results.md").read_text()
    assert "abcdef012345" in text
    assert "QUICK: `tercet experiments E4 --quick`, 1 runs" in text
    assert "## E5" not in text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_leaves_no_process(tmp_path, number):
    command = [sys.executable, "-m", "cli", "experiments", "E10", "--quick", "--rows", str(tmp_path)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    until("it measures", lambda: len(psutil.Process(process.pid).children()) >= 2)
    children = psutil.Process(process.pid).children()
    process.send_signal(number)
    _, said = process.communicate(timeout=30.0)
    assert not psutil.wait_procs(children, timeout=10.0)[1]
    assert process.returncode == 130
    assert "the same command goes on from here" in said
