"""What docs/deploy.md says: each command is run by a test or needs what is not here; figures are so."""

import re
from dataclasses import fields

import pytest
import yaml

from infra.config import ConfigError, parse_config
from infra.feasible import check_feasible
from infra.preview import predict
from infra.preview_config import PreviewConfig
from infra.stack import stack_args
from orchestrator.control_policy import Hardware
from orchestrator.policy import load_policy
from tests.infra.kit import ROOT, config_of, example, pulumi_values

TEXT = (ROOT / "docs/deploy.md").read_text()
HARDWARE = Hardware.load()

_UP = "tests/cluster/test_cluster_up.py::test_the_stack_is_looked_at_and_comes_and_goes_by_one_command_each"
_ASK = "tests/system/test_cli.py::test_ask_prints_the_answer"
RUN_BY = {
    "make cluster": "tests/cluster/test_control_plane.py::test_ctrl_c_leaves_nothing",
    "make cluster-up ARGS=--preview": _UP,
    "make cluster-up": _UP,
    "make cluster-down": _UP,
    "make run": _ASK,
    ".venv/bin/tercet ask": _ASK,
}


def blocks():
    """Return the lines of each block of commands."""
    found = re.findall(r"^ *```console\n(.*?)^ *```", TEXT, re.MULTILINE | re.DOTALL)
    return [[line.strip() for line in block.splitlines()] for block in found]


def commands():
    """Return the commands of blocks that need nothing that is not here."""
    return [
        line.removeprefix("$ ")
        for block in blocks()
        if not block[0].startswith("# needs: ")
        for line in block
    ]


def test_every_line_of_a_block_is_a_command_or_says_what_the_block_needs():
    assert len(blocks()) > 5
    assert all(re.match(r"\$ |# needs: ", line) for block in blocks() for line in block)


@pytest.mark.parametrize("command", commands())
def test_each_command_is_run_by_a_test(command):
    (test,) = {RUN_BY[known] for known in RUN_BY if command == known or command.startswith(f'{known} "')}
    file, _, name = test.partition("::")
    assert f"def {name}(" in (ROOT / file).read_text()


def test_the_stack_to_begin_with_can_work():
    (block,) = re.findall(r"^ *```yaml\n(.*?)^ *```", TEXT, re.MULTILINE | re.DOTALL)
    config = parse_config(pulumi_values(yaml.safe_load(block)["config"]), "mine")
    stack = stack_args(config, ROOT, HARDWARE.accelerators)
    check_feasible(stack, HARDWARE)
    assert {"tiny-gateway", "tiny-decode-cpu"} <= {each["metadata"]["name"] for each in stack.objects()}


@pytest.mark.parametrize("key", [field.name for field in fields(PreviewConfig)])
def test_every_key_of_predictions_is_explained(key):
    assert f"| `{key}` |" in TEXT


def test_the_example_of_a_refusal_is_what_is_said():
    levels = load_policy(ROOT / "policies/internvl-26b.yaml").topology.levels
    one = {"nodes": 1, "spread": [{"level": level, "domains": 1} for level in levels]}
    config = config_of(
        services={name: {"policy": f"policies/{name}.yaml"} for name in ("internvl-26b", "tiny")},
        node_pools={
            name: {"hardware": name, "accelerators": 4, "simulated": one} for name in ("h100", "l40s")
        },
    )
    with pytest.raises(ConfigError) as refused:
        check_feasible(stack_args(config, ROOT, HARDWARE.accelerators), HARDWARE)
    assert f"```\n{refused.value}\n```" in TEXT


def test_the_figures_of_the_example_are_what_is_simulated():
    config = example("simulated")
    stack = stack_args(config, ROOT, HARDWARE.accelerators)
    figures = predict(stack, config.preview, ROOT, HARDWARE)
    total, attained = figures["total"], figures["total"]["attainment"]
    assert f"| {total['gpu_hours_per_day']:.0f} |" in TEXT
    assert f"| ${total['cost_per_day_usd']:,.0f} |" in TEXT
    assert f"| ${figures['pools']['cost_per_day_usd']:,.0f} |" in TEXT
    shares = ", ".join(f"{100 * attained[name]:.0f} %" for name in ("all", "text", "image"))
    assert f"| {shares} |" in TEXT
