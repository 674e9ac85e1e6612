"""Reports of comparisons and of searches for counts: whole, offline, and the same for the same figures."""

import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from cli.main import app
from orchestrator.simulator.axes import linear_axis
from orchestrator.simulator.compare import compare_found, compare_policies
from orchestrator.simulator.compare_report import comparison_report
from orchestrator.simulator.plot import Dots, Plot, svg
from orchestrator.simulator.scatter import Spent, frontier, scatter_plot
from orchestrator.simulator.scenario import load_subject
from orchestrator.simulator.tune import tune
from orchestrator.simulator.tune_report import tune_report
from tests.orchestrator.simulator.test_report import POLICY, TRACE, svgs

OUTSIDE = r"https?:|//[a-z]|url\(|@import|<script|<link|<img|\bsrc=|\bhref="


@pytest.fixture(scope="module")
def subject():
    whole = load_subject(POLICY, TRACE)
    return replace(whole, workload=whole.workload.slice(0.0, 60.0))


def test_a_comparison_draws_every_policy(subject):
    names = ["coupled", "static", "hpa"]
    html = comparison_report([subject], compare_policies([subject], names, seed=0), ["quota:at=1"])
    titles = [element.get("aria-label") for element in svgs(html)]
    assert titles == ["GPU-hours against attainment", *[f"Replicas under {name}" for name in names]]
    scatter = svgs(html)[0]
    assert set(names) < {text.text for text in scatter.iter("text")}
    assert "quota:at=1" in html
    assert "Parameters found" not in html
    assert not re.search(OUTSIDE, html)
    assert comparison_report([subject], compare_policies([subject], names, seed=0), ["quota:at=1"]) == html


def test_a_searched_comparison_says_what_was_found(subject):
    html = comparison_report([subject], compare_found(subject, subject, ["hpa"], trials=1, seed=0))
    assert "Parameters found" in html
    assert "encode_target 0.7" in html


def test_a_search_for_counts_draws_its_points_and_the_best(subject):
    tuned = tune(subject, trials=4)
    html = tune_report(subject, tuned)
    (scatter,) = svgs(html)
    names = [text.text for text in scatter.iter("text")]
    for trial in tuned.trials:
        assert ":".join(str(count) for count in trial.counts.values()) in names
    assert "chosen" in names
    assert not re.search(OUTSIDE, html)


def spent(gpu_hours, attainment):
    return Spent(name="", gpu_hours=gpu_hours, attainment=attainment)


def test_the_frontier_has_what_nobody_beats_in_both():
    cheap, good, dear, worse = spent(1.0, 0.5), spent(2.0, 0.9), spent(3.0, 0.9), spent(1.0, 0.4)
    assert frontier([dear, good, worse, cheap]) == [cheap, good]


def test_a_scatter_of_nothing_attained_is_drawn():
    """Neither no attainment nor no GPU-hours breaks an axis."""
    plot = scatter_plot("t", [spent(0.0, 0.0), spent(0.0, 1.0)], 0.99)
    ElementTree.fromstring(svg(plot))
    assert [text for _, text in plot.y.ticks][:2] == ["0", "10"]


def test_names_of_dots_in_one_place_do_not_cover_each_other():
    dots = Dots(label="d", points=[((1.0, 1.0), f"policy {n}") for n in range(5)], colour="#000000")
    plot = Plot(title="t", x=linear_axis("x", 2.0), y=linear_axis("y", 2.0), marks=[dots])
    texts = [t for t in ElementTree.fromstring(svg(plot)).iter("text") if t.get("class") == "name"]
    lines = sorted(float(text.get("y")) for text in texts)
    assert all(after - before >= 12.0 for before, after in pairwise(lines))


@pytest.mark.parametrize("command", [["compare", "--only", "static"], ["tune", "--trials", "1"]])
def test_the_commands_write_the_file_and_say_where(tmp_path, command):
    file = tmp_path / "report.html"
    given = ["--policy", str(POLICY), "--trace", str(TRACE), "--report"]
    result = CliRunner().invoke(app, [*command, *given, str(file)])
    assert result.exit_code == 0, result.output
    assert f"report: {file}" in result.stdout
    assert file.read_text().startswith("<!DOCTYPE html>")
    missing = CliRunner().invoke(app, [*command, *given, str(tmp_path / "missing" / "report.html")])
    assert missing.exit_code == 2
    assert "cannot write the report" in missing.stderr


def test_a_search_refuses_faults():
    arguments = ["compare", "--policy", str(POLICY), "--search", "2", "--fault", "metric-loss:at=1"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "--search is without --fault" in result.output
