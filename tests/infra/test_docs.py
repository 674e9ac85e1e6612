"""The examples in docs/stack.md."""

import re

import pytest
import yaml

from infra.config import parse_config
from infra.objects.scalers import ADAPTED_METRIC, LOAD_METRIC
from infra.stack import stack_args
from tests.infra.kit import ACCELERATORS, ROOT, pulumi_values

BLOCKS = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/stack.md").read_text(), re.DOTALL)
DOCUMENTS = [yaml.safe_load(block) for block in BLOCKS]
STACKS = [document["config"] for document in DOCUMENTS if "config" in document]


@pytest.mark.parametrize("values", STACKS, ids=lambda values: next(iter(values["tercet:services"])))
def test_an_example_can_be_built(values):
    args = stack_args(parse_config(pulumi_values(values), "example"), ROOT, ACCELERATORS)
    assert list(args.objects())


def test_the_adapter_is_told_the_names_that_scalers_use():
    (rule,) = next(document for document in DOCUMENTS if "config" not in document)["externalRules"]
    assert (rule["seriesQuery"], rule["name"]["as"]) == (LOAD_METRIC, ADAPTED_METRIC)
