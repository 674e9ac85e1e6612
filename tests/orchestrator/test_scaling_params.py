"""Parameters of scaling policies in the file, the schema and the reference: those of the policy named."""

from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
import yaml

from orchestrator.core.scaling import SCALERS, Params
from orchestrator.policy import PolicyError, ScalingPolicy, load_policy, policy_schema
from orchestrator.policy.load import parse_policy
from orchestrator.policy.scaling import ScalingName, descriptions

ROOT = Path(__file__).parents[2]
LIVE = sorted(name for name, scaler in SCALERS.items() if scaler.live)
COMMON = {field.name for field in fields(Params)}
BASE = """\
apiVersion: tercet/v1
service: tiny
model: {name: tiny}
stages: {encode: {engine: tiny}, prefill: {engine: tiny}, decode: {engine: tiny}}
"""


def scaling(text):
    return parse_policy(f"{BASE}scaling: {text}", "p.yaml").scaling


def problems(text):
    with pytest.raises(PolicyError) as caught:
        scaling(text)
    return [str(problem) for problem in caught.value.problems]


def test_the_names_of_a_policy_file_are_the_live_ones_of_the_table():
    assert sorted(get_args(ScalingName)) == LIVE


@pytest.mark.parametrize("name", LIVE)
def test_each_policy_has_an_example(name):
    example = load_policy(ROOT / "policies" / "examples" / "scaling" / f"{name}.yaml")
    assert example.scaling.policy == name
    assert isinstance(example.scaling.params, SCALERS[name].params)


@pytest.mark.parametrize("name", [name for name in LIVE if name not in ("static-best", "periodic")])
def test_parameters_that_are_not_given_are_those_of_the_policy(name):
    assert scaling(f"{{policy: {name}}}").params == SCALERS[name].params()
    assert scaling(f"{{policy: {name}, params: {{}}}}").params == SCALERS[name].params()


@pytest.mark.parametrize("name", ["static", "hpa", "coupled"])
def test_every_policy_has_the_backpressure_of_admission(name):
    tight = parse_policy(f"{BASE}scaling: {{policy: {name}, params: {{beta: 2}}}}", "p.yaml")
    assert tight.admission_bounds.prefill_backlog_s == 1.0
    off = parse_policy(f"{BASE}scaling: {{policy: {name}, params: {{backpressure: false}}}}", "p.yaml")
    assert off.admission_bounds.prefill_backlog_s == float("inf")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "{policy: hpa, params: {targt: 1}}",
            "5:33: `scaling.params.targt`: unknown key; did you mean `target`?",
        ),
        (
            "{policy: hpa, params: {kv: 1}}",
            "5:33: `scaling.params.kv`: unknown key; valid here: backpressure, beta,",
        ),
        (
            "{params: {target: 1}}",
            "5:20: `scaling.params.target`: unknown key; valid here: backpressure, beta,",
        ),
        (
            "{policy: hpa, params: {target: 2}}",
            "5:41: `scaling.params.target`: 2 is not above 0 and at most 1",
        ),
        ("{policy: hpa, params: {target: '1'}}", "5:41: `scaling.params.target`: must be a valid number"),
        ("{policy: hpa, params: [1]}", "5:32: `scaling.params`: must be a mapping"),
        ("{policy: hpa, params: {beta: 0}}", "5:39: `scaling.params.beta`: 0 is not above 0"),
        ("{policy: hpa, params: {tolerance: .nan}}", "`scaling.params.tolerance`: nan is"),
        ("{policy: static, params: {decode: -1}}", "5:44: `scaling.params.decode`: -1 is below 0"),
        ("{policy: static-best}", "`scaling.params.encode`: is missing"),
        ("{policy: periodic}", "`scaling.params.hours`: is missing"),
        ("{policy: periodic, params: {hours: []}}", "`scaling.params.hours`: is missing"),
        (
            "{policy: periodic, params: {hours: [{hour: 24, encode: 1, prefill: 1, decode: 1}]}}",
            "5:53: `scaling.params.hours.0.hour`: 24 is not from 0 to below 24",
        ),
        (
            "{policy: periodic, params: {hours: [{huor: 1}]}}",
            "`scaling.params.hours.0.huor`: unknown key; did you mean `hour`?",
        ),
        ("{policy: latency-only, params: {low: 1}}", "`scaling.params.low`: 1 is not below high, 1"),
        ("{policy: threshold-or, params: {kv_spare: 0.8}}", "`scaling.params.kv_spare`: 0.8 is not below kv"),
        (
            "{policy: threshold-or, params: {queue_spare: 6}}",
            "`scaling.params.queue_spare`: 6 is above queue",
        ),
        (
            "{policy: coupled, params: {band: alwys}}",
            "`scaling.params.band`: must be 'never', 'fallback' or 'always'; did",
        ),
        ("{policy: coupled, params: {hysteresis_in: 1}}", "`scaling.params.hysteresis_in`: 1 is not below 1"),
        (
            "{policy: coupled, params: {guardrail_windows: 0}}",
            "`scaling.params.guardrail_windows`: 0 is below 1",
        ),
        ("{policy: coupled, params: {down: 0}}", "`scaling.params.down`: 0 is not above 0 and at most 1"),
        ("{policy: oracle}", "5:19: `scaling.policy`: `oracle` knows the future"),
        ("{policy: oracle-zero-lag}", "5:19: `scaling.policy`: `oracle-zero-lag` knows the future"),
        ("{policy: cuopled, params: {caps: false}}", "did you mean `coupled`?"),
    ],
)
def test_a_mistake_is_named_with_its_place(text, expected):
    assert any(expected in problem for problem in problems(text)), problems(text)


def test_parameters_of_another_policy_are_refused_in_code_too():
    with pytest.raises(ValueError, match="hpa takes HpaParams"):
        ScalingPolicy(policy="hpa")


def test_the_schema_has_a_variant_per_policy_with_its_parameters_described():
    variants = policy_schema()["$defs"]["ScalingPolicy"]["oneOf"]
    assert sorted(variant["properties"]["policy"]["const"] for variant in variants) == LIVE
    for variant in variants:
        params = variant["properties"]["params"]
        kind = SCALERS[variant["properties"]["policy"]["const"]].params
        assert set(params["properties"]) == {field.name for field in fields(kind)}
        assert all(entry["description"] for entry in params["properties"].values())
        assert params["additionalProperties"] is False


def reference():
    """Return (policy, field) → (meaning, range, default, kind) from the reference's tables."""
    rows = {}
    for line in (ROOT / "docs" / "policy.md").read_text().splitlines():
        path = line.removeprefix("| `").partition("`")[0]
        if line.startswith("| `") and path.partition(".")[0] in SCALERS:
            name, _, key = path.partition(".")
            rows[name, key] = tuple(cell.strip() for cell in line.strip("|").split("|")[1:])
    return rows


def test_the_reference_lists_the_parameters_of_each_policy_with_their_defaults():
    rows = reference()
    assert set(rows) == {
        (name, f.name) for name in LIVE for f in fields(SCALERS[name].params) if f.name not in COMMON
    }
    for (name, key), (meaning, _, default, kind) in rows.items():
        assert kind == "live"
        field = next(f for f in fields(SCALERS[name].params) if f.name == key)
        if default != "required":
            assert yaml.safe_load(default) == field.default, (name, key)
        assert descriptions(SCALERS[name].params)[key].startswith(meaning.rstrip("."))
