"""What a stack's configuration may say."""

import pytest

from infra.config import ConfigError
from infra.stack import stack_args
from tests.infra.kit import ACCELERATORS, ROOT, config_of

TINY = {"tiny": {"policy": "policies/tiny.yaml"}}
NODES = {"simulated": {"nodes": 1}}


def test_a_stack_needs_only_its_services():
    """Everything else has a default."""
    config = config_of(services=TINY)
    assert (config.namespace, config.services["tiny"].autoscaler) == ("tercet", "tercet")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        pytest.param({"servces": TINY}, "`tercet:servces`: unknown key; did you mean `services`", id="root"),
        pytest.param(
            {"services": {"tiny": {"polcy": "x"}}},
            "`tercet:services.tiny.polcy`: unknown key; did you mean `policy`",
            id="below",
        ),
        pytest.param(
            {"services": {"tiny": {"policy": "x", "autoscaler": "tercett"}}},
            "`tercet:services.tiny.autoscaler`: must be 'tercet', 'hpa', 'keda' or 'none'; did you mean",
            id="value",
        ),
        pytest.param({}, "`tercet:services`: is missing", id="missing"),
        pytest.param(
            {"services": TINY, "node_pools": {"a": {"hardware": "h100"}}},
            "exactly one of simulated, labels and karpenter",
            id="no-backend",
        ),
    ],
)
def test_a_wrong_key_is_named_with_the_nearest_right_one(values, told):
    with pytest.raises(ConfigError) as refused:
        config_of(**values)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        pytest.param({"services": {"tiny": {"policy": "no.yaml"}}}, "no.yaml:1:1: cannot be read", id="file"),
        pytest.param(
            {"services": {"other": {"policy": "policies/tiny.yaml"}}}, "the policy is of `tiny`", id="name"
        ),
        pytest.param(
            {"services": TINY, "node_pools": {"a": {"hardware": "h101", **NODES}}},
            "`tercet:node_pools.a.hardware`: h101 is not in data/accelerators.yaml",
            id="hardware",
        ),
    ],
)
def test_what_the_files_contradict_is_refused(values, told):
    with pytest.raises(ConfigError) as refused:
        stack_args(config_of(**values), ROOT, ACCELERATORS)
    assert told in str(refused.value)
