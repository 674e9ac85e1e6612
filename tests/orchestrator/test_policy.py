"""What policy files are accepted, and what is said of the others."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.router import SCORERS
from orchestrator.policy import PolicyError, classify, load_policy, policy_schema
from orchestrator.policy.load import parse_policy
from orchestrator.policy.values import Weights
from stages.types import Stage

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "policies").rglob("*.yaml"))
TINY = (ROOT / "policies" / "tiny.yaml").read_text()
BASE = """\
apiVersion: tercet/v1
service: tiny
model: {name: tiny}
stages:
  encode:  {engine: tiny}
  prefill: {engine: tiny, min: 1, max: 4}
  decode:  {engine: tiny, batch: 32}
"""


def policy(*edits, more=""):
    text = BASE
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return parse_policy(text + more, "p.yaml")


def problems(*edits, more=""):
    with pytest.raises(PolicyError) as caught:
        policy(*edits, more=more)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_policy_in_the_repository_loads(file):
    assert load_policy(file).service == file.stem


def test_defaults_serve_a_policy_that_names_only_a_model_and_engines():
    plain = policy()
    assert plain.routing.weights(Stage.ENCODE) == {"pending_tokens": 1.0, "cache_affinity": 2.0}
    assert plain.routing.weights(Stage.DECODE) == {"free_kv": 1.0}
    assert plain.stages[Stage.DECODE].hardware == ("cpu",)
    assert plain.admission.limits.body_bytes == 16_000_000
    assert plain.model.max_context is None


SERVED = [("engine: tiny", "engine: vllm")]


def test_only_engine_servers_can_leave_a_stage_to_the_next():
    split = "split: {prefill_from: null}\n"
    (told,) = problems(more=split)
    assert told.endswith("`split`: tiny has an engine for each stage; leave split out")
    loaded = policy(*SERVED, more=split).split.of_requests
    assert [loaded.uses(stage) for stage in Stage] == [True, False, True]


def test_a_policy_that_cannot_count_what_decode_prefills_is_refused():
    (told,) = problems(*SERVED, more="split: {prefill_from: 512}\nscaling: {policy: coupled}\n")
    assert "coupled does not count what a stage does for another" in told
    assert told.endswith("these need not: static, static-best, hpa, threshold-or")


def test_sglangs_encoders_are_called_for_every_request_or_for_none():
    """And get no hop of ours."""
    sglang = [("engine: tiny", "engine: sglang")]
    for split in ("{encode_from: 512}", "{prefill_from: null}"):
        (told,) = problems(*sglang, more=f"split: {split}\nscaling: {{policy: static}}\n")
        assert "SGLang encodes apart for all requests, which are prefilled apart too, or for none" in told
    apart, none = (
        policy(*sglang),
        policy(*sglang, more="split: {encode_from: null}\nscaling: {policy: hpa}\n"),
    )
    assert (apart.encoders_called, none.encoders_called) == (True, False)
    assert apart.hops(Stage) == none.hops((Stage.PREFILL, Stage.DECODE)) == (Stage.PREFILL, Stage.DECODE)
    assert policy(*SERVED).hops(Stage) == tuple(Stage)
    assert (apart.admission_bounds.encode_waits, none.admission_bounds.encode_waits) == (False, True)


def test_nothing_that_goes_by_queues_scales_sglangs_encoders():
    """They have none here: they would be held at their fewest, whatever the load."""
    (told,) = problems(("engine: tiny", "engine: sglang"), more="scaling: {policy: threshold-or}\n")
    assert "threshold-or goes by what waits for replicas" in told


def test_the_scorers_of_a_policy_are_those_of_the_router():
    every = Weights(pending_tokens=1, cache_affinity=1, prefix=1, free_kv=1)
    assert every.in_use.keys() == SCORERS.keys()


def test_what_the_pure_functions_get_follows_the_file():
    edited = policy(
        ("min: 1, max: 4", "budget_s: 0.4"),
        more="scaling: {params: {beta: 2}}\nadmission: {queue_s: 7, age_s: 3, priority_s: 4}\n"
        "slo: {ttft_s: 3, stretch: 8}\n",
    )
    assert (edited.admission_bounds.queue_s, edited.admission_bounds.prefill_backlog_s) == (7.0, 0.8)
    params = edited.waiting_params
    assert (params.ttft_s, params.stretch, params.age_s, params.priority_s) == (3.0, 8.0, 3.0, 4.0)
    assert policy(more="slo: {size_normalised: false}").waiting_params.stretch == 0.0


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param(
            "model:",
            "modle:",
            "p.yaml:3:1: `modle`: unknown key; did you mean `model`?",
            id="unknown-section",
        ),
        pytest.param(
            "{engine: tiny}",
            "{engnie: tiny}",
            "p.yaml:5:13: `stages.encode.engnie`: unknown key; did you mean `engine`?",
            id="unknown-key",
        ),
        pytest.param(
            "batch: 32",
            "queue_s: 3",
            "p.yaml:7:27: `stages.decode.queue_s`: unknown key; it is known as `admission.queue_s`",
            id="key-of-another-section",
        ),
        pytest.param(
            "batch: 32",
            "qqq: 3",
            "p.yaml:7:27: `stages.decode.qqq`: unknown key; valid here: engine, hardware, tp, batch, min,",
            id="nothing-near",
        ),
        pytest.param(
            "service: tiny\n",
            "service: tiny\nservice: other\n",
            "p.yaml:3:1: `service`: given twice, first in line 2",
            id="twice",
        ),
        pytest.param(
            "model: {name: tiny}", "model: {}", "p.yaml:3:8: `model.name`: is missing", id="missing"
        ),
        pytest.param("service: tiny\n", "", "p.yaml:1:1: `service`: is missing", id="missing-at-the-top"),
        pytest.param(
            "min: 1, max: 4",
            "min: 5, max: 4",
            "p.yaml:6:40: `stages.prefill.max`: max 4 is below min 5",
            id="min-max",
        ),
        pytest.param(
            "batch: 32",
            "batch: '32'",
            "p.yaml:7:34: `stages.decode.batch`: must be a valid integer",
            id="text",
        ),
        pytest.param(
            "batch: 32",
            "batch: 0",
            "p.yaml:7:34: `stages.decode.batch`: must be greater than or equal to 1",
            id="zero",
        ),
        pytest.param(
            "batch: 32",
            "batch: yes",
            "p.yaml:7:34: `stages.decode.batch`: must be a valid integer",
            id="bool",
        ),
        pytest.param(
            "{engine: tiny}", "tiny", "p.yaml:5:12: `stages.encode`: must be a mapping", id="not-a-section"
        ),
        pytest.param(
            "v1",
            "v2",
            "p.yaml:1:13: `apiVersion`: must be 'tercet/v1'; did you mean `tercet/v1`?",
            id="version",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place(old, new, expected):
    assert any(problem.startswith(expected) for problem in problems((old, new)))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            "routing: {encode: {pendng_tokens: 1}}",
            "8:20: `routing.encode.pendng_tokens`: unknown key; did you mean `pending_tokens`?",
        ),
        (
            "routing: {encode: {prefix: -1}}",
            "8:28: `routing.encode.prefix`: must be greater than or equal to 0",
        ),
        (
            "routing: {encode: {}}",
            "8:19: `routing.encode`: every weight is 0: nothing would tell replicas apart",
        ),
        ("slo: {attainment: 0}", "8:19: `slo.attainment`: must be greater than 0"),
        ("slo: {attainment: 99}", "8:19: `slo.attainment`: must be less than or equal to 1"),
        ("slo: {tpot_s: .inf}", "8:15: `slo.tpot_s`: must be a finite number"),
        ("slo: {ttft_s: 1}", "8:15: `slo.ttft_s`: 1 is below the stages' budgets, 1.5 together"),
        ("scaling: {policy: cupled}", "did you mean `coupled`?"),
        (
            "scaling: {params: {gamma: 1}}",
            "8:20: `scaling.params.gamma`: unknown key; valid here: backpressure, beta, enc",
        ),
        ("topology: {levels: [a, a]}", "8:20: `topology.levels`: the same level is named twice"),
        (
            "topology: {edges: {encode-prefil: auto}}",
            "8:20: `topology.edges.encode-prefil`: unknown key; did you mean",
        ),
        (
            "topology: {edges: {encode-prefill: x}}",
            "8:36: `topology.edges.encode-prefill`: 'x' is not auto, any or one of levels",
        ),
        ("admission: {fetch: {allow: [ok.example, 10.0.0.0/33]}}", "8:41: `admission.fetch.allow.1`:"),
        ("demand: {trace: gone.csv}", "8:17: `demand.trace`: there is no file gone.csv beside the policy"),
    ],
)
def test_an_infeasible_value_is_refused_at_load(more, expected):
    assert any(expected in problem for problem in problems(more=more))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", "p.yaml:1:1: the file is empty", id="empty"),
        pytest.param(
            "a: [1", "p.yaml:1:6: not YAML: expected ',' or ']', but got '<stream end>'", id="not-yaml"
        ),
        pytest.param(
            "a: 1\n---\nb: 2", "p.yaml:2:1: not YAML: but found another document", id="two-documents"
        ),
        pytest.param("- a", "p.yaml:1:1: must be a mapping", id="a-list"),
        pytest.param("service: !!python/name:os.system x", "p.yaml:1:10: `service`: the tag", id="tag"),
        pytest.param(
            "a: &x [*x]", "p.yaml:1:4: `a.0`: a section cannot be an alias of another", id="recursive"
        ),
        pytest.param("service: !!int x", "p.yaml:1:10: `service`: 'x' is no int", id="not-an-int"),
        pytest.param("service: !!bool x", "p.yaml:1:10: `service`: 'x' is no bool", id="not-a-bool"),
        pytest.param("service: !!int", "p.yaml:1:10: `service`: '' is no int", id="no-int"),
        pytest.param("[" * 600, "p.yaml:1:1: it is nested too deeply", id="deep"),
        pytest.param("service: \x00", "p.yaml:1:1: not YAML:", id="control-character"),
        pytest.param(
            f"service: 0x{'f' * 5000}", "p.yaml:1:10: `service`: the number is too large", id="huge-number"
        ),
    ],
)
def test_text_that_is_no_policy(text, expected):
    with pytest.raises(PolicyError) as caught:
        parse_policy(text, "p.yaml")
    assert any(str(problem).startswith(expected) for problem in caught.value.problems)


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file():
    lines = [
        p.split(":")[1] for p in problems(("model:", "modle:"), ("batch: 32", "batch: 0"), more="slo: 3")
    ]
    assert lines == sorted(lines)
    assert {"3", "7", "8"} <= set(lines)


def test_a_file_that_is_not_there_or_not_text_is_a_policy_error(tmp_path):
    with pytest.raises(PolicyError, match="cannot be read"):
        load_policy(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(PolicyError, match="is not UTF-8"):
        load_policy(tmp_path / "bytes.yaml")


def test_a_trace_is_looked_for_beside_the_policy(tmp_path):
    (tmp_path / "trace.csv").touch()
    (tmp_path / "p.yaml").write_text(BASE + "demand: {trace: trace.csv}\n")
    assert load_policy(tmp_path / "p.yaml").demand.trace == "trace.csv"


pieces = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            "service",
            "stages",
            "{",
            "}",
            "[",
            "]",
            ": ",
            "\n",
            "  ",
            "- ",
            "&a ",
            "*a",
            "!!int ",
            "1e9",
            ".nan",
            "~",
        ]
    ),
)


@given(st.lists(pieces, max_size=20).map("".join), st.integers(0, len(TINY)))
def test_any_text_is_a_policy_or_a_policy_error(noise, at):
    for text in (noise, TINY[:at] + noise + TINY[at:]):
        try:
            parse_policy(text, "p.yaml")
        except PolicyError as error:
            assert error.problems
            assert all(problem.line >= 1 and problem.column >= 1 for problem in error.problems)


def test_the_schema_lists_the_scorers_and_refuses_unknown_keys():
    schema = json.loads(json.dumps(policy_schema()))
    assert set(schema["$defs"]["Weights"]["properties"]) == SCORERS.keys()
    assert all(
        section["additionalProperties"] is False
        for section in [schema, *schema["$defs"].values()]
        if section.get("type") == "object"
    )
    assert schema["required"] == ["apiVersion", "service", "model", "stages"]


def test_roles_can_change_where_servers_of_both_stages_have_the_flag():
    """Which is what pods are started with; that they shall change is scaling's, and live."""
    examples = ROOT / "policies" / "examples"
    policy = load_policy(examples / "sglang-roles.yaml")
    assert policy.roles(Stage.PREFILL) == policy.roles(Stage.DECODE) == (Stage.PREFILL, Stage.DECODE)
    assert policy.roles(Stage.ENCODE) == (Stage.ENCODE,)
    one = replace(policy.stages, decode=replace(policy.stages.decode, flags=()))
    assert replace(policy, stages=one).roles(Stage.PREFILL) == (Stage.PREFILL,)
    assert load_policy(examples / "sglang-epd.yaml").roles(Stage.DECODE) == (Stage.DECODE,)
    off = replace(policy.scaling, params=replace(policy.scaling.params, role_switch=False))
    (change,) = classify(policy, replace(policy, scaling=off))
    assert (change.path, change.kind) == ("scaling.params.role_switch", "live")
    assert replace(policy, scaling=off).switches_roles
