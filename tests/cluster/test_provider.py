"""What the stand-in does as the official provider does, and infra's program gives it no occasion for."""

import pulumi
import pytest
from kubernetes import client
from pulumi.automation import CommandError

from infra.automation import open_stack
from infra.components.kube import KubeObject
from infra.provider import use_stand_in
from localcluster.nodes import FAIL, simulated_node
from orchestrator.kube_names import COLD_START
from tests.cluster.conftest import api

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]


class Stack:
    """Objects that change from one run to the next."""

    def __init__(self, folder, cluster, cli):
        use_stand_in(folder, "tests.cluster.provider")
        self.objects, self.timeout = [], "30s"
        self._stack = open_stack(
            "test",
            "config: {}",
            folder=folder,
            kubeconfig=cluster.kubeconfig,
            cli=cli,
            home=folder / "home",
            program=self._declare,
        )

    def up(self, *objects):
        """Have the stack consist of objects; return how many resources each operation met."""
        self.objects = objects
        return self._stack.up().summary.resource_changes

    def _declare(self):
        timeouts = pulumi.CustomTimeouts(create=self.timeout, update=self.timeout, delete=self.timeout)
        for thing in self.objects:
            KubeObject(thing, pulumi.ResourceOptions(custom_timeouts=timeouts))


@pytest.fixture
def stack(tmp_path, cluster, pulumi_cli):
    return Stack(tmp_path, cluster, pulumi_cli)


@pytest.fixture
def apps(cluster, core):
    core.create_node(simulated_node("worker-0"))
    yield client.AppsV1Api(api(cluster))
    core.delete_node("worker-0")


def deployment(namespace, **annotations):
    labels = {"app": "slow"}
    template = {
        "metadata": {"labels": labels, "annotations": annotations},
        "spec": {"containers": [{"name": "main", "image": "none"}]},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "slow", "namespace": namespace},
        "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template},
    }


def config_map(namespace, value, **fields):
    named = {"name": "data", "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": named, "data": {"key": value}, **fields}


def test_a_deployment_is_waited_for(stack, namespace, apps):
    stack.up(deployment(namespace, **{COLD_START: "2s"}))
    assert apps.read_namespaced_deployment("slow", namespace).status.ready_replicas == 2


def test_one_that_is_not_ready_in_time_is_known_all_the_same(stack, namespace, apps):
    """So that the next run updates it instead of making it again."""
    stack.timeout = "2s"
    with pytest.raises(CommandError, match="0 of 2 replicas are ready"):
        stack.up(deployment(namespace, **{FAIL: "OOMKilled"}))
    stack.timeout = "30s"
    assert stack.up(deployment(namespace))["update"] == 1
    assert apps.read_namespaced_deployment("slow", namespace).status.ready_replicas == 2


def test_an_immutable_map_is_replaced(stack, namespace, core):
    """The old one goes first, since both have one name."""
    stack.up(config_map(namespace, "old", immutable=True))
    old = core.read_namespaced_config_map("data", namespace)
    assert stack.up(config_map(namespace, "new", immutable=True))["replace"] == 1
    new = core.read_namespaced_config_map("data", namespace)
    assert (new.data, new.metadata.uid == old.metadata.uid) == ({"key": "new"}, False)
