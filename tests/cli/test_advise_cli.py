import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.advise import explain
from cli.main import app
from orchestrator.core.advisor import Infeasible, Obstacle
from orchestrator.targets import DEFAULT_FILE

ROOT = Path(__file__).parents[2]
POLICY = str(ROOT / "policies" / "examples" / "scaling" / "static.yaml")
HEADER = "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens,EXTRA\n"
TRACE = HEADER + (
    "2024-10-16T08:00:00.000Z,2,1352,100,a\n"
    "2024-10-16T08:00:01.000Z,0,400,300,b\n"
    "2024-10-16T08:00:02.000Z,1,100,0,c\n"
    "2024-10-16T08:00:04.000Z,0,68,0,d\n"
)


def run(*args):
    return CliRunner().invoke(app, ["advise", *args], env={"COLUMNS": "200"})


def report(*args):
    result = run("--json", *args)
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


@pytest.fixture
def trace(tmp_path):
    file = tmp_path / "trace.csv"
    file.write_text(TRACE)
    return file


def test_a_table_for_each_stage_with_why_not_and_what_to_choose():
    result = run("--policy", POLICY)
    assert result.exit_code == 0, result.output
    for words in ("encode, budget 0.6 s", "prefill, ", "decode, ", "payload: ", "→ ", "break-even"):
        assert words in result.output
    assert "there is no such service" in result.output


def test_json_has_a_verdict_for_each_stage_and_target():
    found = report("--policy", POLICY, "--rate", "2")
    assert found["demand"]["requests_per_s"] == 2.0
    assert list(found["stages"]) == ["encode", "prefill", "decode"]
    for stage in found["stages"].values():
        assert not stage["targets"]["aws-serverless-gpu"]["feasible"]
        assert not stage["targets"]["aws-lambda"]["feasible"]
        assert stage["targets"]["eks"]["usd_per_month"] > 0
        best = stage["recommended"]
        assert best is None or stage["targets"][best]["within_budget"]
        pairs = [tuple(each["targets"]) for each in stage["break_even"]]
        assert ("ecs-ec2", "eks") in pairs
    assert (
        found["together_usd_per_month"]["eks"] > found["stages"]["decode"]["targets"]["eks"]["usd_per_month"]
    )


def test_more_load_costs_more():
    low, high = (report("--policy", POLICY, "--rate", rate)["stages"] for rate in ("1", "50"))
    for stage in low:
        costs = [each[stage]["targets"]["eks"]["usd_per_month"] for each in (low, high)]
        assert costs == sorted(costs)


def test_a_trace_gives_the_demand_and_a_rate_goes_before_it(trace):
    """Text tokens are those beyond 576 an image, and at least 32."""
    demand = report("--policy", POLICY, "--trace", str(trace))["demand"]
    assert (demand["requests_per_s"], demand["images"], demand["image_share"]) == (0.75, 0.75, 0.5)
    assert (demand["text_tokens"], demand["output_tokens"]) == ((200 + 400 + 32 + 68) / 4, 100.5)
    assert report("--policy", POLICY, "--trace", str(trace), "--rate", "9")["demand"]["requests_per_s"] == 9.0


def test_a_service_without_images_has_no_encode_stage(tmp_path):
    file = tmp_path / "text.csv"
    file.write_text(HEADER + "2024-10-16T08:00:00Z,0,400,1,\n2024-10-16T08:00:02Z,0,400,1,\n")
    assert list(report("--policy", POLICY, "--trace", str(file))["stages"]) == ["prefill", "decode"]


def test_a_bad_trace_is_refused_with_the_place(trace):
    trace.write_text(HEADER + "2024-10-16T08:00:00Z,x,1,1,\n")
    result = run("--policy", POLICY, "--trace", str(trace))
    assert result.exit_code == 2
    assert "trace.csv:2: " in result.output and "NumImages" in result.output


def test_a_trace_of_one_moment_has_no_rate(trace):
    trace.write_text(HEADER + "2024-10-16T08:00:00Z,1,1,1,\n")
    result = run("--policy", POLICY, "--trace", str(trace))
    assert result.exit_code == 2
    assert "requests at two moments" in result.output


def test_a_bad_targets_file_is_refused_with_the_place_and_the_nearest_key(tmp_path):
    file = tmp_path / "targets.yaml"
    file.write_text(DEFAULT_FILE.read_text().replace("region:", "regoin:"))
    result = run("--policy", POLICY, "--targets", str(file))
    assert result.exit_code == 2
    assert "`regoin`: unknown key; did you mean `region`?" in result.output


def test_a_price_edited_changes_the_advice(tmp_path):
    file = tmp_path / "targets.yaml"
    file.write_text(DEFAULT_FILE.read_text().replace("value: 73,", "value: 7300,"))
    before, after = (report("--policy", POLICY, *more) for more in ((), ("--targets", str(file))))
    costs = [each["stages"]["decode"]["targets"]["eks"]["usd_per_month"] for each in (before, after)]
    assert costs[1] - costs[0] == pytest.approx(7227.0)


def test_a_model_without_a_profile_is_named_with_those_that_have_one():
    result = run("--policy", str(ROOT / "policies" / "noop.yaml"))
    assert result.exit_code == 2
    assert "profile of noop" in result.output
    assert "internvl-2.5-26b" in result.output


@pytest.mark.parametrize("reason", Infeasible)
def test_every_reason_has_words(reason):
    assert explain(Obstacle(reason=reason, needed=2e9, allowed=0.5))
