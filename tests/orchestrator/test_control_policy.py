"""What control gets of a policy file, and what is refused because it cannot be."""

from pathlib import Path

import pytest

from orchestrator.control_policy import Hardware, edge_levels, load_control_policy, refusals
from orchestrator.core.planned import EdgeLevels
from orchestrator.policy import PolicyError, load_policy
from orchestrator.profiles import DATA
from stages.types import Stage

ROOT = Path(__file__).parents[2]
HARDWARE = Hardware.load()
BASE = """\
apiVersion: tercet/v1
service: vl
model: {name: internvl-26b}
stages:
  encode:  {engine: vllm, hardware: [l40s, a100], max: 16, budget_s: 0.6}
  prefill: {engine: vllm, hardware: [a100], tp: 4, batch: 8}
  decode:  {engine: vllm, hardware: [h20, h100], tp: 4, batch: 96, min: 2}
"""
LEVELS = "topology: {levels: [topology.kubernetes.io/zone, example.com/block, example.com/rack]"


@pytest.fixture
def write(tmp_path):
    def write(*edits, more=""):
        text = BASE
        for old, new in edits:
            assert old in text
            text = text.replace(old, new, 1)
        (tmp_path / "p.yaml").write_text(text + more)
        return tmp_path / "p.yaml"

    return write


@pytest.fixture
def load(write):
    return lambda *edits, more="": load_control_policy(write(*edits, more=more), HARDWARE)


def test_control_gets_the_file_the_profile_and_the_hardware(load):
    policy = load(more="scaling: {policy: static, budget: 40}\nslo: {tpot_s: 0.06, attainment: 0.95}\n")
    decode = policy.stages[Stage.DECODE]
    assert (decode.hardware, decode.tp, decode.min, decode.max, decode.slots) == (
        ("h20", "h100"),
        4,
        2,
        8,
        96,
    )
    assert policy.stages[Stage.ENCODE].budget_s == 0.6
    assert (policy.kappa, policy.budget, policy.tpot_s, policy.attainment) == (1, 40, 0.06, 0.95)
    assert policy.profile.model == "OpenGVLab/InternVL2_5-26B"
    assert policy.accelerators is HARDWARE.accelerators


def test_a_start_may_have_to_wait_for_a_node(load):
    policy = load()
    assert {stage: bounds.lead_s for stage, bounds in policy.stages.items()} == {
        Stage.ENCODE: 270.0,
        Stage.PREFILL: 510.0,
        Stage.DECODE: 510.0,
    }


@pytest.mark.parametrize(
    ("more", "edges"),
    [
        pytest.param("", EdgeLevels(), id="no-levels"),
        pytest.param(LEVELS + "}\n", EdgeLevels(prefill_decode=2), id="auto-by-bytes"),
        pytest.param(
            LEVELS + "}\nslo: {ttft_s: 60}\n", EdgeLevels(prefill_decode=0), id="a-loose-target-needs-nothing"
        ),
        pytest.param(
            LEVELS + ", edges: {encode-prefill: example.com/block, prefill-decode: any}}\n",
            EdgeLevels(encode_prefill=2),
            id="named",
        ),
        pytest.param("topology: {levels: [hall]}\n", EdgeLevels(prefill_decode=1), id="none-is-near-enough"),
    ],
)
def test_levels_that_edges_require(load, more, edges):
    """450 MB of KV cache have a tenth of 2 s, an image's 16 MB likewise."""
    assert load(more=more).edges == edges


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        pytest.param("", EdgeLevels(prefill_decode=2), id="auto"),
        pytest.param(
            ", edges: {encode-prefill: zone}", EdgeLevels(encode_prefill=1, prefill_decode=2), id="E-P"
        ),
        pytest.param(", edges: {prefill-decode: zone}", EdgeLevels(prefill_decode=1), id="P-D"),
        pytest.param(", edges: {prefill-decode: any}", EdgeLevels(), id="any"),
    ],
)
def test_without_a_profile_decode_shares_every_level_with_prefill(write, edges, expected):
    """Nobody knows the bytes: an image moves anywhere, a KV cache as little as can be."""
    policy = load_policy(write(more=f"topology: {{levels: [zone, rack]{edges}}}\n"))
    assert edge_levels(policy, None, HARDWARE.links) == expected


@pytest.mark.parametrize("timeout_s", [510, 60])
def test_a_start_must_be_able_to_end_before_it_is_given_up(load, timeout_s):
    with pytest.raises(PolicyError, match=f"{timeout_s} is not above the 510 s that"):
        load(more=f"scaling: {{pending_timeout_s: {timeout_s}}}\n")


def test_what_control_gets_of_admission_and_time_outs_follows_the_file(load):
    policy = load(more="admission: {queue_s: 4}\nscaling: {pending_timeout_s: 700}\n")
    assert (policy.queue_s, policy.pending_timeout_s) == (4.0, 700.0)


def test_a_policy_may_name_its_profile(load, tmp_path):
    text = (DATA / "profiles" / "internvl-2.5-26b.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("tokens: 1280", "tokens: 1024"))
    named = ("{name: internvl-26b}", "{name: our-own, profile: mine.yaml}")
    assert load(named).profile.image_tokens == 1024


@pytest.mark.parametrize(
    ("edits", "more", "expected"),
    [
        pytest.param(
            [("internvl-26b", "gpt")],
            "",
            "3:15: `model.name`: there is no profile of gpt; known: internvl",
            id="no-profile",
        ),
        pytest.param(
            [("internvl-26b", "internvl-26b, profile: none.yaml")],
            "",
            "`model.profile`: there is no file none.yaml beside the policy",
            id="no-profile-file",
        ),
        pytest.param(
            [("internvl-26b", "internvl-26b, kappa: 0")],
            "",
            "`model.kappa`: 0, but the profile of OpenGVLab/InternVL2_5-26B has 1",
            id="kappa",
        ),
        pytest.param(
            [("[a100], tp: 4", "[l4], tp: 1")],
            "",
            "6:38: `stages.prefill.hardware.0`: weights of 39.7 GB do not fit the 21.6 GB usable of 1 × l4",
            id="memory",
        ),
        pytest.param(
            [("[l40s, a100]", "[l40s, b200]")],
            "",
            "`stages.encode.hardware.1`: b200 is not in data/accelerators.yaml: a100, a40",
            id="unknown-hardware",
        ),
        pytest.param(
            [("[h20, h100], tp: 4", "[h100], tp: 2")],
            "",
            "has no decode timing on 2 × h100; it has 1 × a100, 4 × a100, 8 × a100, 4 × a40, 4 × h100",
            id="no-timing",
        ),
        pytest.param(
            [("internvl-26b", "internvl-26b, max_context: 200000"), ("[a100], tp: 4", "[a100], tp: 1")],
            "",
            "`stages.prefill.hardware.0`: KV caches of 164184 positions fit 1 × a100, fewer than max_context",
            id="context",
        ),
        pytest.param(
            [
                ("budget_s: 0.6", "budget_s: 0.1"),
                ("batch: 8", "batch: 8, budget_s: 0.1"),
                ("min: 2", "min: 2, budget_s: 0.1"),
            ],
            "slo: {ttft_s: 0.4}\n",
            "`slo.ttft_s`: 0.4 is below the 0.574 s that one image and 1024 tokens of text take alone, "
            "encoded on 1 × l40s and prefilled on 4 × a100",
            id="ttft",
        ),
        pytest.param(
            [],
            "slo: {tpot_s: 0.005}\n",
            "`slo.tpot_s`: 0.005 is below the 0.00619 s that a token of a sequence alone with 2304 positions",
            id="tpot",
        ),
        pytest.param(
            [],
            "scaling: {budget: 12}\n",
            "`scaling.budget`: 12 accelerators are fewer than the 13 of min replicas, one at least",
            id="budget",
        ),
        pytest.param(
            [("min: 2", "min: 0")],
            "scaling: {budget: 8}\n",
            "`scaling.budget`: 8 accelerators are fewer than the 9 of min replicas, one at least",
            id="budget-from-zero",
        ),
        pytest.param(
            [],
            "scaling: {policy: static, params: {prefill: 400}}\n",
            "`scaling.params.prefill`: 400 is outside stages.prefill.min ",
            id="fixed-count",
        ),
        pytest.param(
            [],
            "scaling: {policy: periodic, params: {hours: [{hour: 3, encode: 400, prefill: 1, decode: 1}]}}\n",
            "`scaling.params.hours.0.encode`: 400 is outside stages.encode.min ",
            id="count-of-an-hour",
        ),
        pytest.param([], "scaling: {budget: 0}\n", "`scaling.budget`: must be greater", id="no-budget"),
    ],
)
def test_what_cannot_be_is_refused_with_the_numbers(load, edits, more, expected):
    with pytest.raises(PolicyError) as caught:
        load(*edits, more=more)
    assert any(expected in str(problem) for problem in caught.value.problems), caught.value


def test_all_that_cannot_be_is_said_at_once(load):
    with pytest.raises(PolicyError) as caught:
        load(("internvl-26b", "internvl-26b, kappa: 0"), ("[l40s, a100]", "[b200, b300]"))
    assert len(caught.value.problems) == 3


def test_a_model_without_a_profile_can_be_served_but_not_controlled():
    file = ROOT / "policies" / "noop.yaml"
    assert not list(refusals(load_policy(file), file, HARDWARE))
    with pytest.raises(PolicyError, match="there is no profile of noop"):
        load_control_policy(file, HARDWARE)


@pytest.mark.parametrize(
    "file",
    [
        ROOT / "policies" / "tiny.yaml",
        ROOT / "policies" / "internvl-26b.yaml",
        *(ROOT / "policies" / "examples").glob("*.yaml"),
    ],
    ids=lambda file: file.stem,
)
def test_control_accepts_the_policies_of_the_repository(file):
    assert load_control_policy(file).service == file.stem


def test_edges_follow_the_bytes_of_larger_images(write):
    """52 MB cross regions in a tenth of 2 s; the 136 MB of 26 tiles have to stay in a zone."""
    path = write(("internvl-26b", "llava-ov-7b"), ("[h20, h100], tp: 4", "[h20, h100]"), more=LEVELS + "}\n")
    usual, large = (load_control_policy(path, HARDWARE, image_px=px) for px in (None, 5 * 384))
    assert large.profile.embedding_bytes == 26 * usual.profile.embedding_bytes // 10
    assert (usual.edges.encode_prefill, large.edges.encode_prefill) == (0, 1)


def test_only_an_engine_that_can_change_its_role_is_planned_to(write, load):
    switching = "scaling: {policy: coupled, params: {role_switch: true}}\n"
    with pytest.raises(PolicyError, match=r"role_switch.*a replica of vllm keeps its role"):
        load(more=switching)
    stages = ("encode: ", "prefill:", "decode: ")
    sglang = [(f"{stage} {{engine: vllm", f"{stage} {{engine: sglang") for stage in stages]
    assert load(*sglang, more=switching).switches_roles
    with pytest.raises(PolicyError, match="sglang, vllm do not work on one request together"):
        load(sglang[0])
