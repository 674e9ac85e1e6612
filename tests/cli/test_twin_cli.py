"""`tercet twin`: statistics of a twin beside those of what it was made from."""

import json

import pytest

from orchestrator.simulator.load import SHIPPED_PER_MINUTE, SHIPPED_WINDOW
from tests.system.kit import tercet


def test_a_twin_of_a_trace_is_set_against_it():
    done = tercet("twin", "--trace", str(SHIPPED_WINDOW), "--json")
    statistics = {each["name"]: each for each in json.loads(done.stdout)["statistics"]}
    assert statistics["requests"]["real"] == 2_000
    assert statistics["requests"]["twin"] == pytest.approx(2_000, rel=0.01)  # less the end of its last minute
    distances = [each["ks"] for each in statistics.values() if each["ks"] is not None]
    assert len(distances) == 7
    assert max(distances) < 0.06


def test_counts_per_minute_of_any_kind_are_enough(tmp_path):
    """An hour of the shipped ones, with nothing beside them: the shipped distributions are taken."""
    lines = SHIPPED_PER_MINUTE.read_text().splitlines()
    file = tmp_path / "hour.csv"
    file.write_text("\n".join(lines[:61]))
    done = tercet("twin", str(file))
    assert done.code == 0
    assert "index of dispersion, by minute" in done.stdout and "KS distance" in done.stdout
    assert "of all requests have images" in done.stderr


def test_a_file_that_cannot_be_used_is_told(tmp_path):
    file = tmp_path / "wrong.csv"
    file.write_text("when,what\n1,2\n")
    done = tercet("twin", str(file))
    assert done.code == 2
    assert "wrong.csv" in done.stderr and "timestamp" in done.stderr
