"""The examples in docs/stack.md."""

import re

import pytest
import yaml

from infra.config import parse_config
from infra.federation.config import facts_of, federation_args, parse_federation
from infra.objects.federation import federation_objects, federation_spec, member_output
from infra.objects.scalers import ADAPTED_METRIC, LOAD_METRIC
from infra.stack import stack_args
from orchestrator.control_policy import Hardware
from tests.infra.kit import ACCELERATORS, ROOT, pulumi_values

BLOCKS = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/stack.md").read_text(), re.DOTALL)
DOCUMENTS = [yaml.safe_load(block) for block in BLOCKS]
CONFIGS = [document["config"] for document in DOCUMENTS if "config" in document]
STACKS = [config for config in CONFIGS if "tercet:services" in config]
(FEDERATION,) = [config for config in CONFIGS if config not in STACKS]


@pytest.mark.parametrize("values", STACKS, ids=lambda values: next(iter(values["tercet:services"])))
def test_an_example_can_be_built(values):
    args = stack_args(parse_config(pulumi_values(values), "example"), ROOT, ACCELERATORS)
    assert list(args.objects())


def federation_objects_of(values):
    """Return the objects of a federation whose members are all like the one in the docs."""
    args = federation_args(parse_federation(pulumi_values(values), "example"), ROOT, Hardware.load())
    (member,) = [config for config in STACKS if config.get("tercet:controller") == "federation"]
    stack = stack_args(parse_config(pulumi_values(member), "example"), ROOT, ACCELERATORS)
    output = member_output(stack.controller)
    facts = facts_of(dict.fromkeys([each.name for each in args.members], output), args)
    return federation_objects(args, federation_spec(args, facts))


def test_the_federation_joins_stacks_as_the_one_beside_it():
    assert federation_objects_of(FEDERATION)


def test_the_adapter_is_told_the_names_that_scalers_use():
    (rule,) = next(document for document in DOCUMENTS if "config" not in document)["externalRules"]
    assert (rule["seriesQuery"], rule["name"]["as"]) == (LOAD_METRIC, ADAPTED_METRIC)
