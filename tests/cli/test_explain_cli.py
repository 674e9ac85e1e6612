import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app

ROOT = Path(__file__).parents[2]
POLICY = str(ROOT / "policies" / "internvl-26b.yaml")
HEADER = "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two minutes, one request a second."""
    folder = tmp_path_factory.mktemp("explain")
    trace, file = folder / "trace.csv", folder / "run.json"
    rows = [f"2024-10-16T08:{s // 60:02d}:{s % 60:02d}.000Z,{s % 2},900,50\n" for s in range(120)]
    trace.write_text(HEADER + "".join(rows))
    result = CliRunner().invoke(app, ["simulate", "--policy", POLICY, "--trace", str(trace), "--json"])
    assert result.exit_code == 0, result.output
    file.write_text(result.stdout)
    return file


def explained(*args):
    return CliRunner().invoke(app, ["explain", *map(str, args)], env={"COLUMNS": "220"})


def test_a_decision_is_the_one_of_the_run_with_what_others_would_have_done(run):
    found = json.loads(explained(run, "--at", 62, "--json").stdout)
    assert found["at_s"] == 60.0
    moments = json.loads(run.read_text())["timeline"]
    last = [moment for moment in moments if moment["at_s"] <= 60.0][-1]
    assert [found["plan"]["stages"][s]["replicas"] for s in last["wanted"]] == [
        count for count, _ in last["wanted"].values()
    ]
    assert {"hpa", "modserve", "oracle"} <= set(found["others"])
    assert "coupled" not in found["others"]
    assert found["others"]["hpa"]["prefill"].keys() == {"replicas", "reason"}


def test_regret_is_the_difference_to_the_oracle(run):
    found = json.loads(explained(run, "--at", 60, "--json").stdout)
    own, oracle = found["own"], found["oracle"]
    assert found["regret"]["gpu_hours"] == pytest.approx(own["gpu_hours"] - oracle["gpu_hours"])
    assert own["gpu_hours"] == pytest.approx(json.loads(run.read_text())["gpu_hours"])


def test_people_get_tables(run):
    result = explained(run, "--at", 60)
    assert result.exit_code == 0, result.output
    assert "The decision at 60 s" in result.output
    assert "regret" in result.output


def test_every_stage_shows_what_is_offered_and_names_are_whole_on_a_narrow_terminal(run):
    """One request a second of 50 output tokens, once the mean has settled."""
    result = CliRunner().invoke(app, ["explain", str(run), "--at", "110"], env={"COLUMNS": "80"})
    seen = result.output.partition("What it saw:")[2].partition("What others")[0]
    offered = {words[0]: words[1] for words in map(str.split, seen.splitlines()) if len(words) > 2}
    assert float(offered["decode"]) == pytest.approx(50, rel=0.15)
    assert {"independent-tps", "threshold-or"} <= set(result.output.split())


def test_a_time_after_the_end_is_refused_with_the_times_there_are(run):
    result = explained(run, "--at", 1e6)
    assert result.exit_code == 2
    assert "no decision at 1e+06 s: they were taken every 5 s until" in result.output


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"inputs": 3}'])
def test_what_is_no_run_is_refused_with_what_to_do(tmp_path, text):
    file = tmp_path / "run.json"
    file.write_text(text)
    result = explained(file, "--at", 1)
    assert result.exit_code == 2
    assert "tercet simulate --json" in result.output
