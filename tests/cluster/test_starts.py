"""Simulated nodes and replicas take as long as accelerators' facts and the model's profile say."""

import dataclasses

import pytest

from cli.cluster_nodes import add_nodes
from infra.shared_config import StartsConfig
from infra.stack import stack_args
from orchestrator.control_policy import load_control_policy
from orchestrator.kube_names import HARDWARE, STAGE
from orchestrator.simulator.fleet_spec import parse_fleet
from stages.types import Stage
from tests.cluster.conftest import until
from tests.cluster.objects import is_ready
from tests.cluster.raw import Raw
from tests.infra.kit import ACCELERATORS, ROOT, example

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

SPEED_UP = 20.0
STAMP_S = 1.0
"""Kubernetes writes times in whole seconds."""
BUSY_S = 5.0
"""What a busy machine may add."""


def took_s(thing, begun):
    (ready,) = (each for each in thing.status.conditions if each.type == "Ready")
    return (ready.last_transition_time - begun).total_seconds()


def within(took, bounds):
    least_s, most_s = (bound / SPEED_UP for bound in bounds)
    return least_s - STAMP_S <= took <= most_s + BUSY_S


def bound_at(pod):
    return next(each.last_transition_time for each in pod.status.conditions if each.type == "PodScheduled")


def test_nodes_and_then_replicas_take_their_time(cluster, core):
    """The shipped stack, sooner, and with nobody who would gate its pods."""
    shipped = example("simulated")
    services = {name: dataclasses.replace(each, autoscaler="none") for name, each in shipped.services.items()}
    config = dataclasses.replace(shipped, services=services, starts=StartsConfig(speed_up=SPEED_UP))
    with Raw(cluster) as raw:
        for thing in stack_args(config, ROOT, ACCELERATORS).objects():
            answer = raw.create(thing)
            assert answer.is_success, answer.text
            if thing["kind"] == "Namespace":
                until(lambda: core.list_namespaced_service_account(config.namespace).items)

    def replicas():
        return core.list_namespaced_pod(config.namespace, label_selector=STAGE).items

    def placed():
        """Decode is for h20 first, of which there is no node: nobody chooses another class."""
        return [pod for pod in replicas() if pod.metadata.labels[HARDWARE] != "h20"]

    until(lambda: len(placed()) == 2 and all(map(is_ready, placed())), 90.0)
    until(lambda: all(map(is_ready, core.list_node().items)))
    nodes = core.list_node().items
    assert len({node.metadata.labels[HARDWARE] for node in nodes}) == 4
    for node in nodes:
        facts = ACCELERATORS[node.metadata.labels[HARDWARE]]
        assert within(took_s(node, node.metadata.creation_timestamp), facts.provisioning_s)
    starts = load_control_policy(ROOT / "policies/internvl-26b.yaml").profile.cold_start
    for pod in placed():
        start = starts[Stage(pod.metadata.labels[STAGE])]
        both = (pull + load for pull, load in zip(start.pull_s, start.load_s, strict=True))
        assert within(took_s(pod, bound_at(pod)), both)


def test_the_nodes_of_tercet_cluster_take_theirs_if_asked_to(cluster, core):
    add_nodes(cluster.kubeconfig, parse_fleet("l4=2x4", ()), (), SPEED_UP)

    def added():
        return core.list_node(label_selector=f"{HARDWARE}=l4").items

    until(lambda: all(map(is_ready, added())))
    for node in added():
        assert within(took_s(node, node.metadata.creation_timestamp), ACCELERATORS["l4"].provisioning_s)
