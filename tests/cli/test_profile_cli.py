import json

import pytest
from typer.testing import CliRunner

from cli.profile import profile_app
from orchestrator.profiles import DATA


def run(*args):
    return CliRunner().invoke(profile_app, [*args], env={"COLUMNS": "120"})


def test_list_names_the_files():
    names = [path.stem for path in sorted((DATA / "profiles").glob("*.yaml"))]
    assert run("list").output.split() == names
    assert json.loads(run("list", "--json").output) == names


def test_show_as_json():
    report = json.loads(run("show", "internvl-26b", "--json").output)
    classes = {(row["hardware"], row["tp"]): row for row in report["classes"]}
    assert report["kappa"] == 1
    assert classes["a100", 4]["prompt_tokens_per_s"] == pytest.approx(15_600)
    assert classes["a100", 4]["itl_s"] <= report["mix"]["tpot_s"]
    assert classes["a100", 4]["derived"] == ["encode"]
    assert classes["l4", 1]["prompt_tokens_per_s"] is None


def test_show_prints_a_line_per_class_and_marks_what_is_derived():
    lines = run("show", "llama-3.2-90b", "--tpot-s", "0.1").output.splitlines()
    assert any("8 × a100" in line and "8,400" in line for line in lines)
    assert any("8 × h100" in line and "~21,000" in line for line in lines)
    assert "×0.6 to ×1.6" in " ".join(lines)


@pytest.mark.parametrize("option", [["--tpot-s", "0.0001"], ["--text-tokens", "100000000"]])
def test_a_mix_that_no_batch_serves_has_no_rate(option):
    report = json.loads(run("show", "tiny", "--json", *option).output)
    assert [(row["batch"], row["output_tokens_per_s"]) for row in report["classes"]] == [(0, 0.0)]


def test_show_reads_a_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text((DATA / "profiles" / "tiny.yaml").read_text().replace("model: tiny", "model: mine"))
    assert json.loads(run("show", str(file), "--json").output)["model"] == "mine"


def test_an_unknown_model_is_answered_with_the_known_ones():
    result = run("show", "gpt")
    assert result.exit_code == 2
    assert "known: internvl-2.5-26b" in result.output
