"""Stacks to test with."""

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from infra.config import StackConfig, parse_config
from infra.stack import StackArgs, stack_args
from orchestrator.policy import load_policy
from orchestrator.profiles import load_accelerators

ROOT = Path(__file__).parents[2]
ELSEWHERE = Path("policies/examples/openai-server.yaml")
"""Its servers run elsewhere, so no stack can have it."""
POLICIES = sorted({path.relative_to(ROOT) for path in (ROOT / "policies").rglob("*.yaml")} - {ELSEWHERE})
EXAMPLES = sorted(path.suffixes[0][1:] for path in ROOT.glob("Pulumi.*.yaml"))
ACCELERATORS = load_accelerators()


def pulumi_values(values: dict[str, Any]) -> dict[str, str]:
    """Return configuration as Pulumi hands it over: objects as JSON, by full key."""
    return {key: value if isinstance(value, str) else yaml.safe_dump(value) for key, value in values.items()}


def config_of(**values: Any) -> StackConfig:
    return parse_config(pulumi_values({f"tercet:{key}": value for key, value in values.items()}), "test")


def example_values(stack: str) -> dict[str, str]:
    return pulumi_values(yaml.safe_load((ROOT / f"Pulumi.{stack}.yaml").read_text())["config"])


def example(stack: str) -> StackConfig:
    return parse_config(example_values(stack), stack)


def stack_of(policy: Path, stack: dict[str, Any] | None = None, **service: Any) -> StackArgs:
    """Return a stack of one service, with further keys of stack and service."""
    name = load_policy(ROOT / policy).service
    config = config_of(services={name: {"policy": str(policy), **service}}, **(stack or {}))
    return stack_args(config, ROOT, ACCELERATORS)


WATCHED = {"observability": {"monitors": True, "prometheus": "http://prometheus.monitoring:9090"}}
"""What scalers by Prometheus ask of a stack."""


@dataclass(frozen=True)
class FakeCluster:
    """What the program asks of a cluster, known beforehand: labels by node, APIs such as `example.com/v1`."""

    labels: Mapping[str, Mapping[str, str]]
    apis: Set[str] = frozenset()

    def nodes(self, labels: Mapping[str, str]) -> list[str]:
        return [name for name, borne in self.labels.items() if labels.items() <= borne.items()]

    def serves(self, api_version: str) -> bool:
        return api_version in self.apis


def named(things: Any, kind: str, name: str = "") -> dict[str, Any]:
    found = [t for t in things if t["kind"] == kind and (not name or t["metadata"]["name"] == name)]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def expanded(container: dict[str, Any], variable: str, known: dict[str, str]) -> str:
    """Return a variable of a container with each `$(NAME)` put in, as the kubelet does."""
    values = dict(known)
    for entry in container["env"]:
        if "value" in entry:
            values[entry["name"]] = re.sub(r"\$\((\w+)\)", lambda match: values[match[1]], entry["value"])
    return values[variable]
