import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.policy import policy_app

POLICIES = Path(__file__).parents[2] / "policies"
TINY, NOOP = str(POLICIES / "tiny.yaml"), str(POLICIES / "noop.yaml")


@pytest.fixture
def bad(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text((POLICIES / "tiny.yaml").read_text() + "routing: {encode: {pendng_tokens: 1}}\n")
    return str(file)


def run(*args):
    return CliRunner().invoke(policy_app, [*args])


def test_check_passes_good_files():
    result = run("check", TINY, NOOP)
    assert result.exit_code == 0
    assert result.output.splitlines() == [f"{TINY}: ok", f"{NOOP}: ok"]


def test_check_names_the_place_and_the_nearest_key_and_the_next_step(bad):
    result = run("check", TINY, bad)
    assert result.exit_code == 1
    assert (
        f"{bad}:12:20: `routing.encode.pendng_tokens`: unknown key; did you mean `pending_tokens`?"
        in result.output
    )
    assert f"{TINY}: ok" in result.output
    assert "next: " in result.output


def test_check_as_json(bad):
    result = run("check", "--json", bad)
    report = json.loads(result.stdout)
    assert (result.exit_code, report["ok"]) == (1, False)
    assert [(p["file"], p["line"], p["column"], p["key"], p["nearest"]) for p in report["problems"]] == [
        (bad, 12, 20, "routing.encode.pendng_tokens", "pending_tokens")
    ]


@pytest.mark.parametrize("args", [[], ["--json"]])
def test_schema_is_json(args):
    assert json.loads(run("schema", *args).stdout)["title"] == "Policy"


def test_diff_says_of_each_field_whether_it_is_live(tmp_path):
    new = tmp_path / "new.yaml"
    new.write_text(
        (POLICIES / "tiny.yaml").read_text().replace("queue_s: 10", "queue_s: 5").replace("32", "64")
    )
    assert run("diff", TINY, str(new)).output.splitlines() == [
        "rollout  stages.decode.batch: 32 → 64",
        "live     admission.queue_s: 10.0 → 5.0",
        "1 live, 1 rollout",
    ]
    assert json.loads(run("diff", "--json", TINY, str(new)).stdout) == {
        "rollout": True,
        "changes": [
            {"path": "stages.decode.batch", "kind": "rollout", "old": 32, "new": 64},
            {"path": "admission.queue_s", "kind": "live", "old": 10.0, "new": 5.0},
        ],
    }


def test_diff_of_equal_files():
    assert run("diff", TINY, TINY).output == "no difference\n"


@pytest.mark.parametrize("args", [[], ["--json"]])
def test_diff_of_a_bad_file_fails_and_names_the_problem(bad, args):
    result = run("diff", *args, TINY, bad)
    assert result.exit_code == 1
    assert "pendng_tokens" in result.output
