"""`tercet simulate` and `tercet compare` as a person runs them."""

import json

import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.orchestrator.simulator.test_several import second_policy
from tests.orchestrator.simulator.test_simulate import POLICY, TRACE

WITHOUT_TRACE = "".join(line for line in POLICY.open() if not line.startswith("demand:"))
ARGS = ["--policy", str(POLICY), "--trace", str(TRACE)]


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_simulate_prints_what_people_compare():
    result = run("simulate", *ARGS)
    assert result.exit_code == 0
    for words in ("GPU-hours", "attained", "TTFT", "TPOT", "encode", "simulation"):
        assert words in result.output


def test_an_edit_of_a_number_shows_in_the_figures(tmp_path):
    """Twice the encoders at least: more GPU-hours, more requests in time."""
    edited = tmp_path / "edited.yaml"
    text = WITHOUT_TRACE
    assert "batch: 1,  min: 1," in text
    edited.write_text(text.replace("batch: 1,  min: 1,", "batch: 1,  min: 24,"))
    before, after = (
        json.loads(run("simulate", "--policy", str(path), "--trace", str(TRACE), "--json").output)
        for path in (POLICY, edited)
    )
    assert after["gpu_hours"] > before["gpu_hours"]
    assert after["groups"]["image"]["attainment"] > before["groups"]["image"]["attainment"]


@pytest.mark.parametrize("command", ["simulate", "compare", "tune"])
def test_a_level_that_no_domain_of_the_fleet_has_for_both_stages_is_refused(tmp_path, command):
    """A fleet's racks are of one hardware each, so encoders on l40s share none with prefill on h100."""
    file = tmp_path / "near.yaml"
    file.write_text(WITHOUT_TRACE.replace("encode-prefill: auto", "encode-prefill: example.com/rack"))
    result = run(command, "--policy", str(file), "--trace", str(TRACE))
    said = " ".join(result.output.split())
    assert result.exit_code == 2
    assert "encode-prefill requires level example.com/rack" in said
    assert "together in domains of topology.kubernetes.io/zone, example.com/block" in said


@pytest.mark.parametrize("command", ["simulate", "compare", "tune"])
@pytest.mark.parametrize(
    ("fleet", "words"),
    [
        pytest.param("l40s=1x8,h100=4x2", "1 decode replicas", id="nodes-too-small"),
        pytest.param("l40s=1x8,h100=1x4", "1 prefill replicas", id="no-room-for-both"),
    ],
)
def test_a_fleet_without_room_for_the_least_is_refused(command, fleet, words):
    result = run(command, *ARGS, "--fleet", fleet)
    said = " ".join(result.output.split())
    assert result.exit_code == 2
    assert words in said
    assert "there is room for 0" in said


def test_fixed_counts_outside_the_bounds_are_refused():
    result = run("simulate", *ARGS, "--replicas", "encode=65")
    assert result.exit_code == 2
    assert "encode=65 is outside the policy's 1 to 64" in result.output


def test_what_has_no_place_and_what_is_refused_is_counted_with_its_reason():
    """Room for one prefill and one decode; under hpa more is asked for, and requests are turned away."""
    small = ["--only", "hpa", "--fleet", "l40s=1x8,h100=1x8"]
    found = json.loads(run("compare", *ARGS, *small, "--json").output)["policies"]["hpa"]
    assert found["refusals"].keys() == {"backlog-full", "context-length-exceeded"}
    assert sum(found["refusals"].values()) == found["refused"]
    assert sum(hours for reasons in found["unplaced_hours"].values() for hours in reasons.values()) > 0.0
    said = " ".join(run("compare", *ARGS, *small).output.split())
    assert f"{found['refusals']['backlog-full']} backlog-full" in said
    assert "planned without a place: " in said


def test_compare_has_a_row_for_each_policy_that_was_asked_for():
    result = run("compare", *ARGS, "--only", "coupled,hpa", "--json")
    found = json.loads(result.output)["policies"]
    assert list(found) == ["coupled", "hpa"]
    assert {"gpu_hours", "attainment", "ttft_p99_s", "scale_events"} <= found["hpa"].keys()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["--only", "magic"], "there is no scaling policy magic", id="policy"),
        pytest.param(["--fleet", "a100"], "a100=16x8", id="fleet"),
        pytest.param(["--rate-scale", "much"], "neither auto nor a number from 0.001", id="rate"),
        pytest.param(["--rate-scale", "nan"], "neither auto nor a number from 0.001", id="rate-nan"),
        pytest.param(["--variant", "halved"], "'clipped', 'unclipped', 'tiles'", id="variant"),
        pytest.param(["--fleet", "h100=2x8"], "encode runs on l40s, a100", id="hardware"),
    ],
)
def test_a_wrong_option_says_what_would_be_right(arguments, words):
    result = run("compare", *ARGS, *arguments)
    assert result.exit_code == 2
    assert words in result.output


TAKEN = [
    "--variant",
    "tiles",
    "--image-px",
    "448",
    "--rate-scale",
    "auto",
    "--fleet",
    "l40s=1x8,h100=1x8,h20=1x8",
]
LABEL = "real, images as tiles, 1 an image, rate × "


@pytest.mark.parametrize(
    "command", [["simulate"], ["compare", "--only", "static"], ["tune", "--trials", "1"]], ids=lambda c: c[0]
)
@pytest.mark.slow
def test_every_result_says_what_its_requests_were_taken_for(command):
    trace = json.loads(run(*command, *ARGS, *TAKEN, "--json").output)["trace"]
    assert trace["label"].startswith(LABEL)
    images, rate = [note for note in trace["notes"] if note.startswith(("images of", "rate scale"))]
    assert images == "images of 448 px; tiles of each: 1, tokens: 256"
    assert trace["label"].endswith(rate.removeprefix("rate scale ").split(":")[0])


def test_a_size_that_the_profile_does_not_know_is_refused():
    tiny = str(POLICY.with_name("tiny.yaml"))
    result = run("simulate", "--policy", tiny, "--trace", str(TRACE), "--image-px", "448")
    assert result.exit_code == 2
    assert "--image-px: the profile of tiny is for images of 96 px only" in result.output


def test_without_a_trace_the_way_to_name_one_is_said(tmp_path):
    """By default a policy is run on its own `demand.trace`."""
    edited = tmp_path / "edited.yaml"
    edited.write_text(WITHOUT_TRACE)
    assert run("simulate", "--policy", str(POLICY)).exit_code == 0
    assert "--trace FILE" in run("simulate", "--policy", str(edited)).output


@pytest.mark.slow
def test_tune_finds_counts_that_attain_the_slo_and_says_their_ratio():
    result = json.loads(run("tune", *ARGS, "--trials", "8", "--json").output)
    assert result["attainment"] >= 0.99
    assert result["counts"].keys() == {"encode", "prefill", "decode"}
    assert result["trials"][0].keys() == {"counts", "attainment", "gpu_hours", "cost_usd"}


@pytest.mark.slow
def test_policy_diff_on_a_trace_says_what_the_edit_does(tmp_path):
    edited = tmp_path / "edited.yaml"
    edited.write_text(WITHOUT_TRACE.replace("batch: 1,  min: 1,", "batch: 1,  min: 24,"))
    found = json.loads(
        run("policy", "diff", str(POLICY), str(edited), "--trace", str(TRACE), "--json").output
    )
    assert found["predicted"]["gpu_hours"]["new"] > found["predicted"]["gpu_hours"]["old"]
    assert found["predicted"]["attainment"]["new"] > found["predicted"]["attainment"]["old"]
    assert "GPU-hours" in run("policy", "diff", str(POLICY), str(edited), "--trace", str(TRACE)).output


@pytest.mark.slow
def test_several_policies_share_a_fleet(tmp_path):
    """Each service has its figures, and what is spent adds up."""
    policies = ["--policy", str(POLICY), "--policy", str(second_policy(tmp_path))]
    traces = ["--trace", str(TRACE), "--trace", str(TRACE)]
    found = json.loads(run("simulate", *policies, *traces, "--json").output)
    assert list(found["services"]) == ["internvl-26b", "second"]
    assert sum(each["gpu_hours"] for each in found["services"].values()) == pytest.approx(found["gpu_hours"])
    report = tmp_path / "run.html"
    result = run("simulate", *policies, "--report", str(report))
    assert "busy" in result.output
    assert "second, scaling coupled" in result.output
    assert report.read_text().count("<svg") == 12


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["--trace", str(TRACE)], "1 --trace for 2 --policy", id="traces"),
        pytest.param(["--replicas", "encode=8"], "--replicas is for one --policy", id="replicas"),
        pytest.param(["--rate-scale", "auto"], "auto is for one --policy", id="auto"),
        pytest.param([], "names of their own", id="names"),
    ],
)
def test_what_does_not_fit_several_policies_is_said(arguments, words):
    result = run("simulate", "--policy", str(POLICY), "--policy", str(POLICY), *arguments)
    assert result.exit_code == 2
    assert words in result.output


@pytest.mark.slow
def test_faults_are_simulated_and_said(tmp_path):
    faults = ["--fault", "node-loss:at=60,for=120", "--fault", "quota:at=60,hardware=l40s,most=8"]
    found = json.loads(run("simulate", *ARGS, *faults, "--json").output)
    assert [fault["kind"] for fault in found["faults"]] == ["node-loss", "quota"]
    report = tmp_path / "run.html"
    result = run("simulate", *ARGS, *faults, "--report", str(report))
    assert "node-loss at 60 s to 180 s: " in result.output
    assert "quota at 60 s: l40s" in report.read_text()
    assert run("compare", *ARGS, *faults, "--only", "coupled,static").exit_code == 0


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        pytest.param("meteor:at=1", "there is no fault 'meteor'; there are replica-loss", id="kind"),
        pytest.param("node-loss:when=1", "there is no word 'when'; there are at, for, node", id="word"),
        pytest.param("node-loss:for=5", "lacks at=…", id="missing"),
        pytest.param("quota:at=1", "lacks hardware=… and most=…", id="two-missing"),
        pytest.param("node-loss:at=soon", "at='soon' is not seconds since the start", id="number"),
        pytest.param("node-loss:at=nan", "at='nan' is not seconds", id="nan"),
        pytest.param("node-loss:at=1,for=0", "for='0' is not seconds above 0", id="duration"),
        pytest.param("node-loss:at=1,at=2", "at is there twice", id="twice"),
        pytest.param("replica-loss:at=1,stage=draft", "not one of encode, prefill, decode", id="stage"),
        pytest.param("replica-loss:at=1,count=0", "not a whole number from 1", id="count"),
        pytest.param(
            "node-loss:at=1,node=h100-9", "there is no node 'h100-9'; there are h100-000", id="node"
        ),
        pytest.param("zone-loss:at=1,domain=mars", "there is no domain 'mars'; there are", id="domain"),
        pytest.param("metric-loss:at=1,service=x", "there are internvl-26b", id="service"),
        pytest.param("metric-loss:at=1,stage=x", "not one of encode, prefill, decode", id="silent-stage"),
        pytest.param("quota:at=1,hardware=b200,most=1", "there are h100, h20, l40s", id="hardware"),
    ],
)
def test_a_fault_that_cannot_be_says_what_could(fault, words):
    result = run("simulate", *ARGS, "--fault", fault)
    assert result.exit_code == 2
    assert words in result.output
