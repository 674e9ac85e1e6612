"""Reports: whole, offline, escaped, and the same for the same run."""

import json
import math
import re
from dataclasses import replace
from html import escape
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cli.main import app
from orchestrator.simulator.axes import linear_axis, log_axis, time_axis
from orchestrator.simulator.charts import binned, thinned
from orchestrator.simulator.plot import Band, Line, Plot, steps, svg
from orchestrator.simulator.report import ROWS_AT_MOST, report
from orchestrator.simulator.run import simulate
from orchestrator.simulator.scenario import load_subject
from orchestrator.simulator.summary import summarise
from stages.types import Stage

ROOT = Path(__file__).parents[3]
POLICY = ROOT / "policies/internvl-26b.yaml"
TRACE = ROOT / "data/traces/azure_lmm_window_2024-10-16.csv"
NAN = float("nan")


@pytest.fixture(scope="module")
def run():
    return simulate(load_subject(POLICY, TRACE).scenario())


@pytest.fixture(scope="module")
def html(run):
    return report(run, summarise(run), ["98 rows & more"])


def with_service(run, **changes):
    return replace(run, services=(replace(run.only, **changes),))


def svgs(html):
    return [ElementTree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]


def test_every_plot_is_well_formed_and_titled(html):
    titles = [element.get("aria-label") for element in svgs(html)]
    replicas = [f"Replicas of {stage}" for stage in Stage]
    assert titles == [*replicas, "Waiting jobs by stage", "TTFT by modality", "E:P:D ratio"]


def test_nothing_is_loaded_from_anywhere(html):
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<script|<link|<img|\bsrc=|\bhref=", html)


def test_the_header_says_what_was_run(html, run):
    work = run.only.tenant.workload
    for text in (
        "Profile-driven simulation",
        "internvl-26b",
        "coupled",
        work.name,
        work.label,
        "<dt>seed</dt>",
    ):
        assert text in html


def test_every_stage_reason_and_decision_is_there(html, run):
    for moment in run.only.timeline:
        assert f"<td>{moment.at_s:,.0f} s</td>" in html
        for stage, (wanted, reason) in moment.wanted.items():
            assert f">{stage}</th>" in html
            assert f"→ {wanted} {reason}<" in html
            assert f"<td>{reason}</td>" in html


def test_all_text_is_escaped(run):
    """Names in files are not markup."""
    bad = '<b onload="x">&'
    tenant = run.only.tenant
    named = with_service(run, tenant=replace(tenant, workload=replace(tenant.workload, name=bad, label=bad)))
    html = report(named, summarise(named), [bad])
    assert bad not in html
    assert html.count(escape(bad)) == 5


def test_equal_runs_give_equal_files(run, html):
    again = simulate(run.scenario)
    assert report(again, summarise(again), ["98 rows & more"]) == html


def test_a_long_run_lists_its_first_decisions_and_counts_all(run):
    """Reports of weeks stay readable."""
    timeline = [replace(run.only.timeline[0], at_s=5.0 * tick) for tick in range(ROWS_AT_MOST + 500)]
    long = replace(with_service(run, timeline=timeline), span_s=5.0 * len(timeline))
    html = report(long, summarise(long))
    assert html.count("<tr>") < ROWS_AT_MOST + 30
    assert "500 later decisions are left out" in html
    assert f"<td>{len(timeline)}</td>" in html


@pytest.mark.parametrize("timeline", [[], None], ids=["no-decision", "no-request"])
def test_an_empty_run_has_a_report(run, timeline):
    """Neither a run without a decision nor one without an answer breaks a plot."""
    if timeline is None:
        outcomes = run.only.outcomes
        silent = type(outcomes)(len(outcomes.ttft_s))
        empty = with_service(run, outcomes=silent)
    else:
        empty = with_service(run, timeline=timeline)
    assert len(svgs(report(empty, summarise(empty)))) == 6


def test_steps_keep_each_value_until_the_next():
    assert steps([(0.0, 1.0), (5.0, 2.0)], 9.0) == [(0.0, 1.0), (5.0, 1.0), (5.0, 2.0), (9.0, 2.0)]
    assert steps([], 9.0) == []


def test_a_line_has_a_gap_at_what_is_missing_and_a_dot_between_gaps():
    points = [(0.0, 1.0), (1.0, 2.0), (2.0, NAN), (3.0, 1.0), (4.0, NAN)]
    drawn = ElementTree.fromstring(_plot(Line(label="a < b", points=points, colour="#000000")))
    lines = [path.get("d") for path in drawn.iter("path") if path.get("class") == "line"]
    assert lines[0].count("M") == 1
    assert len(list(drawn.iter("circle"))) == 1
    assert "a < b" in [text.text for text in drawn.iter("text")]


def test_a_band_goes_out_on_top_and_back_below():
    band = Band(label="b", lower=[(0.0, 0.0), (4.0, 0.0)], upper=[(0.0, 1.0), (4.0, 2.0)], colour="#000000")
    (polygon,) = ElementTree.fromstring(_plot(band)).iter("polygon")
    assert len(polygon.get("points").split()) == 4


def _plot(mark):
    return svg(Plot(title="t", x=time_axis(4.0), y=linear_axis("y", 2.0), marks=[mark]))


@given(st.floats(0.0, 1e8), st.floats(0.0, 1e8), st.booleans())
def test_axes_hold_their_values_and_few_ticks(span_s, high, whole):
    """Every value lies between the ends, and ticks are few and increasing."""
    for axis, value in ((time_axis(span_s), span_s), (linear_axis("y", high, whole=whole), high)):
        assert 0.0 <= axis.at(value) <= 1.0
        assert axis.high >= value * (1 - 1e-9)
        places = [place for place, _ in axis.ticks]
        assert places == sorted(set(places))
        assert len(places) <= 11


@pytest.mark.parametrize(
    ("span_s", "label", "last"),
    [
        (0.0, "time (s)", "1"),
        (8.0, "time (s)", "8"),
        (632.0, "time (min)", "10"),
        (86_400.0, "time (h)", "24"),
        (7 * 86_400.0, "time (d)", "7"),
        (1_000 * 86_400.0, "time (d)", "1,000"),
    ],
)
def test_time_is_told_in_a_fitting_unit(span_s, label, last):
    axis = time_axis(span_s)
    assert (axis.label, axis.ticks[-1][1]) == (label, last)


def test_counts_have_whole_ticks():
    assert [text for _, text in linear_axis("replicas", 2, whole=True).ticks] == ["0", "1", "2"]
    assert [text for _, text in linear_axis("share", 1.0).ticks] == ["0", "0.25", "0.5", "0.75", "1"]


def test_a_logarithmic_axis_spans_powers_of_ten():
    axis = log_axis("s", [0.04, 17.0, 0.0, NAN])
    assert [text for _, text in axis.ticks] == ["0.01", "0.1", "1", "10", "100"]
    assert math.isclose(axis.at(1.0), 0.5)


def test_a_bin_without_a_value_is_a_gap():
    at_s, values = np.array([0.0, 1.0, 5.0]), np.array([1.0, 3.0, NAN], np.float32)
    found = binned(at_s, values, np.array([0.0, 2.0, 4.0, 6.0]), 50)
    np.testing.assert_array_equal(found, [(1.0, 2.0), (3.0, NAN), (5.0, NAN)])


@given(st.integers(1, 3_000), st.integers(1, 1_000))
def test_thinning_keeps_the_last_moment(count, most):
    kept = thinned(list(range(count)), most)
    assert kept[-1] == count - 1
    assert len(kept) <= most


def invoke(*args):
    return CliRunner().invoke(app, ["simulate", "--policy", str(POLICY), "--trace", str(TRACE), *args])


def test_the_command_writes_the_file_and_says_where(tmp_path):
    file = tmp_path / "run.html"
    result = invoke("--report", str(file))
    assert result.exit_code == 0, result.output
    assert f"report: {file}" in result.stdout
    assert file.read_text().startswith("<!DOCTYPE html>")
    assert [path.name for path in tmp_path.iterdir()] == ["run.html"]


def test_json_stays_json_beside_a_report(tmp_path):
    result = invoke("--json", "--report", str(tmp_path / "run.html"))
    assert json.loads(result.stdout)["policy"] == "internvl-26b"


def test_a_path_that_cannot_be_written_is_refused_before_the_run(tmp_path):
    file = tmp_path / "missing" / "run.html"
    result = invoke("--report", str(file))
    assert result.exit_code == 2
    assert f"cannot write the report {file}: No such file or directory" in result.stderr
    assert not result.stdout
