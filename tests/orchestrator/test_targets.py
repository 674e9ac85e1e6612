"""The file of deployment targets, and what is said of a bad one."""

import math

import pytest

from orchestrator.core.targets import Span, TargetKind
from orchestrator.targets import DEFAULT_FILE, load_targets, parse_targets
from orchestrator.yaml_file import FileError

TEXT = """\
apiVersion: tercet/targets/v1
region: here
checked: "2026-01-02"
sources:
  page: {url: "https://example.com", checked: "2026-01-02"}
processor:
  flop_per_s: {value: 1.0e+10, source: page}
  bytes_per_s: {value: 1.0e+9, source: page}
  like: a100
  like_flop_per_s: {value: 1.0e+14, source: page}
machines:
  box:
    {hardware: l4, accelerators: 1, memory_bytes: 24.0e+9, vcpus: 4,
    usd_per_h: {value: 1, source: page, unverified: true}}
targets:
  calls:
    kind: serverless-cpu
    title: Calls
    function:
      memory_bytes: {value: 2_147_483_648, source: page}
      bytes_per_vcpu: {value: 1_073_741_824, source: page}
      usd_per_gb_s: {value: 0.5, source: page}
      usd_per_call: {value: 0.25, source: page}
    start_s: {value: [1, 2], source: page}
    idle_s: {value: 60, source: page}
  pool:
    kind: kubernetes-pool
    title: Pool
    machines: [box]
"""


def problems(old, new):
    assert old in TEXT
    with pytest.raises(FileError) as caught:
        parse_targets(TEXT.replace(old, new, 1), "t.yaml")
    return [str(problem) for problem in caught.value.problems]


def test_the_file_in_the_repository_loads_and_has_every_kind():
    known = load_targets()
    assert {target.kind for target in known.targets} == set(TargetKind)
    assert len({target.name for target in known.targets}) == len(known.targets)


def test_every_estimate_in_the_repository_is_marked():
    """Nobody read an estimate anywhere, nor a page without a date."""
    text = DEFAULT_FILE.read_text()
    unread = [
        line.split(":")[0].strip() for line in text.splitlines() if "{url:" in line and "checked" not in line
    ]
    figures = [line for line in text.splitlines() if "source: " in line]
    assert len(unread) > 3
    assert not [
        line
        for line in figures
        for name in unread
        if f"source: {name}," in line or f"source: {name}}}" in line
        if "unverified: true" not in line
    ]


def test_values_are_those_of_the_file():
    known = parse_targets(TEXT, "t.yaml")
    calls, pool = known.targets
    assert (calls.function.vcpus, calls.function.usd_per_s, calls.function.usd_per_call) == (2.0, 1.0, 0.25)
    assert (calls.start_s, calls.idle_s) == (Span(1.0, 2.0), 60.0)
    assert (pool.machines[0].name, pool.machines[0].usd_per_h) == ("box", 1.0)
    assert math.isinf(pool.idle_s)
    assert math.isinf(pool.limits.call_s)
    assert known.processor.slowdown == pytest.approx(1e4)


def test_unverified_figures_are_listed_by_target_with_those_of_its_machines():
    known = parse_targets(TEXT, "t.yaml")
    assert known.unverified == {"calls": (), "pool": ("machines.box.usd_per_h",)}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param(
            "idle_s:",
            "idel_s:",
            "t.yaml:25:5: `targets.calls.idel_s`: unknown key; did you mean `idle_s`?",
            id="unknown-key",
        ),
        pytest.param(
            "unverified: true",
            "verified: true",
            "t.yaml:14:41: `machines.box.usd_per_h.verified`: unknown key; did you mean `unverified`?",
            id="unknown-key-of-a-figure",
        ),
        pytest.param(
            "{value: 0.25, source: page}",
            "{value: 0.25, source: pgae}",
            "t.yaml:23:43: `targets.calls.function.usd_per_call.source`: there is no source 'pgae'",
            id="unknown-source",
        ),
        pytest.param(
            "machines: [box]",
            "machines: [bx]",
            "t.yaml:29:15: `targets.pool.machines`: there is no machine 'bx' in `machines`",
            id="unknown-machine",
        ),
        pytest.param(
            "{value: [1, 2]",
            "{value: [2, 1]",
            "t.yaml:24:22: `targets.calls.start_s.value`: 2 is above 1",
            id="bounds-swapped",
        ),
        pytest.param(
            "    machines: [box]\n",
            "",
            "t.yaml:27:5: `targets.pool`: a target has either a `function` or `machines`",
            id="nothing-to-run-on",
        ),
        pytest.param(
            "accelerators: 1", "accelerators: 0", "t.yaml:13:16: `machines.box.hardware`: ", id="cpu-and-not"
        ),
        pytest.param(
            "vcpus: 4,",
            "vcpus: 4, network_bytes_per_s: {value: 0, source: page},",
            "t.yaml:13:99: `machines.box.network_bytes_per_s.value`: must be above 0",
            id="no-network",
        ),
        pytest.param(
            "kind: kubernetes-pool",
            "kind: kubernetes",
            "t.yaml:27:11: `targets.pool.kind`: must be ",
            id="kind",
        ),
        pytest.param(
            "value: 0.5",
            "value: -1",
            "t.yaml:22:29: `targets.calls.function.usd_per_gb_s.value`: ",
            id="price",
        ),
    ],
)
def test_problems_name_the_place(old, new, expected):
    (problem,) = problems(old, new)
    assert problem.startswith(expected)
