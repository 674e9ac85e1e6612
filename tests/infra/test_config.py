"""What a stack's configuration may say."""

import pytest
import yaml

from infra.adopt import ProviderCluster, adopt
from infra.config import ConfigError
from infra.node_config import LabelledNodes
from infra.objects.observability import MONITORING
from infra.stack import stack_args
from orchestrator.policy import load_policy
from stages.types import Stage
from tests.infra.kit import ACCELERATORS, EXAMPLES, ROOT, FakeCluster, config_of, example

TINY = {"tiny": {"policy": "policies/tiny.yaml"}}
NODES = {"simulated": {"nodes": 1}}
BOUGHT = {"instance_types": ["p5.48xlarge"], "max_accelerators": 8, "role": "r", "discovery": "d"}


def pool(name="a", **backend):
    return {"services": TINY, "node_pools": {name: {"hardware": "h100", **backend}}}


def test_shipped_stacks_edit_their_policies_in_place():
    """By default Pulumi's provider deletes a ConfigMap and makes another; pods would miss it meanwhile."""
    for file in ROOT.glob("Pulumi.*.yaml"):
        assert yaml.safe_load(file.read_text())["config"]["kubernetes:enableConfigMapMutable"] == "true"


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
        pytest.param(pool(labels={}), "exactly one of nodes and selector", id="neither"),
        pytest.param(pool(karpenter=BOUGHT | {"capacity": ["reserved"]}), "given together", id="reserved"),
        pytest.param(
            pool(karpenter=BOUGHT | {"budgets": [{"nodes": "0", "schedule": "@daily"}]}),
            "schedule and duration are given together",
            id="budget",
        ),
        pytest.param(
            pool(karpenter=BOUGHT | {"zone": ["a"]}),
            "`tercet:node_pools.a.karpenter.zone`: unknown key; did you mean `zones`",
            id="karpenter",
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


def test_a_profile_that_cannot_be_used_is_refused(tmp_path):
    (tmp_path / "profile.yaml").write_text("apiVersion: tercet/profile/v9\n")
    text = (ROOT / "policies/tiny.yaml").read_text()
    policy = tmp_path / "tiny.yaml"
    policy.write_text(text.replace("name: tiny, kappa", "name: tiny, profile: profile.yaml, kappa"))
    with pytest.raises(ConfigError, match=r"`tercet:services.tiny.policy`: .*profile.yaml:1"):
        stack_args(config_of(services={"tiny": {"policy": str(policy)}}), ROOT, ACCELERATORS)


def test_a_selector_means_the_nodes_that_the_cluster_finds():
    """Sorted, so that the order of the answer changes nothing; pools that name nodes ask nobody."""
    config = config_of(**pool(labels={"selector": {"row": "r1"}, "labels": {"rack": "b1"}}))
    found = adopt(config, FakeCluster({"b": {"row": "r1"}, "a": {"row": "r1"}, "c": {"row": "r2"}}))
    assert found.node_pools["a"].labels == LabelledNodes(nodes=("a", "b"), labels={"rack": "b1"})
    assert adopt(found, None) == found


def test_a_selector_without_nodes_and_a_node_in_two_pools_are_refused():
    config = config_of(**pool(labels={"selector": {"row": "r1"}}))
    with pytest.raises(ConfigError, match="no node has row=r1"):
        adopt(config, FakeCluster({}))
    named = {"labels": {"nodes": ["n"]}, "hardware": "h100"}
    with pytest.raises(ConfigError, match="node n is in a and in b"):
        adopt(config_of(services=TINY, node_pools={"a": named, "b": named}), None)


def test_a_selector_without_a_cluster_says_so(tmp_path):
    cluster = ProviderCluster({"kubernetes:kubeconfig": str(tmp_path / "none")})
    with pytest.raises(ConfigError, match="a selector of nodes needs the cluster"):
        cluster.nodes({"row": "r1"})


@pytest.mark.parametrize("there", [True, False])
def test_a_cluster_with_prometheus_operator_gets_monitors_unless_somebody_says_no(there):
    cluster = FakeCluster({}, {MONITORING} if there else set())
    open_ = adopt(config_of(services=TINY, observability={}), cluster)
    assert open_.observability.monitors is there
    said = config_of(services=TINY, observability={"monitors": not there})
    assert adopt(said, None) == said


def test_a_scaler_that_goes_by_monitors_is_refused_on_a_cluster_that_can_have_none():
    scaled = {"tiny": {**TINY["tiny"], "autoscaler": "hpa"}}
    config = config_of(services=scaled, observability={})
    assert adopt(config, FakeCluster({}, {MONITORING})).observability.monitors
    with pytest.raises(ConfigError, match=r"no Prometheus Operator .* hpa goes by what Prometheus has"):
        adopt(config, FakeCluster({}))


@pytest.mark.parametrize("stack", EXAMPLES)
def test_every_example_names_what_its_services_run_on(stack):
    """Each stage has a class that some pool of the stack has."""
    config = example(stack)
    hardware = {pool.hardware for pool in config.node_pools.values()}
    for service in config.services.values():
        stages = load_policy(ROOT / service.policy).stages
        # Without a controller all replicas are of the best class.
        classes = [stages[s].hardware[: 1 if service.autoscaler == "none" else None] for s in Stage]
        assert all(hardware & set(each) for each in classes)
