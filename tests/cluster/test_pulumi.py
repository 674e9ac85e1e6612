"""`pulumi up` itself, on a real API server: what comes, what an edit changes, what a failure leaves."""

import pytest
import yaml
from kubernetes import client
from kubernetes.utils.quantity import parse_quantity
from pulumi.automation import CommandError

from localcluster.nodes import simulated_node
from orchestrator.kube_names import HARDWARE, STAGE
from tests.cluster.conftest import api, until
from tests.cluster.provider.api import Api as Kube
from tests.cluster.provider.owners import live_inputs
from tests.cluster.provider.servicer import id_of
from tests.cluster.workbench import Bench
from tests.infra.kit import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

DECODE = "small-decode-h100"


@pytest.fixture(scope="module")
def apps(cluster):
    return client.AppsV1Api(api(cluster))


@pytest.fixture(scope="module")
def kube(cluster):
    return Kube(str(cluster.kubeconfig))


@pytest.fixture
def bench(cluster, pulumi_cli, tmp_path, request):
    name = request.function.__name__.removeprefix("test_").replace("_", "-")[:30].strip("-")
    return Bench(folder=tmp_path, kubeconfig=cluster.kubeconfig, cli=pulumi_cli, name=name)


def as_kept(value):
    """Return a value as the API server keeps it: without what is empty, quantities whatever their unit."""
    if isinstance(value, dict):
        kept = {key: as_kept(each) for key, each in value.items()}
        return {key: each for key, each in kept.items() if each not in ({}, [], None)}
    if isinstance(value, list):
        return [as_kept(each) for each in value]
    return quantity(value) if isinstance(value, str) else value


def quantity(text):
    try:
        return parse_quantity(text)
    except ValueError:
        return text


def test_the_simulated_stack_comes_stays_and_goes(bench, kube):
    """As it is shipped: every object with every field, a second `up` without a change, nothing left."""
    bench.config = yaml.safe_load((ROOT / "Pulumi.simulated.yaml").read_text())["config"]
    objects = bench.objects()
    bench.up()
    for thing in objects:
        assert as_kept(live_inputs(thing, kube.get(thing))) == as_kept(thing)
    assert bench.up() == {}
    bench.destroy()
    assert bench.there(kube) == set()
    assert bench.recorded() == set()


def test_a_live_edit_changes_one_object_and_no_pod(bench, apps):
    bench.serve()
    bench.up()
    before = templates(apps, bench)
    bench.serve(slo__ttft_s=3.0, admission={"queue_s": 5}, stages__decode__max=16)
    assert bench.up() == {f"{bench.name}/small-policy": "update"}
    assert templates(apps, bench) == before


def test_a_rollout_edit_replaces_the_pods_of_its_stage_alone(bench, apps):
    """The new template names a new ConfigMap; the old one goes."""
    bench.serve()
    bench.up()
    before, old = templates(apps, bench), rollout(bench)
    bench.serve(stages__decode__batch=64)
    assert bench.up() == {
        f"{bench.name}/small-policy": "update",
        f"{bench.name}/{DECODE}": "update",
        rollout(bench): "create",
        old: "delete",
    }
    after = templates(apps, bench)
    assert {name for name in before if before[name] != after[name]} == {DECODE}


def test_what_a_controller_set_meanwhile_is_kept(bench, apps, core):
    """Counts of Deployments, gates and places of pods: after no edit, a live one, one of the Deployment."""
    bench.serve()
    bench.config["tercet:node_pools"] = {"h100": {"hardware": "h100", "simulated": {"nodes": 2}}}
    bench.up()
    apps.patch_namespaced_deployment_scale(DECODE, bench.name, {"spec": {"replicas": 2}})
    until(lambda: len(pods(core, bench)) == 2)
    placed, gated = (pod.metadata.name for pod in pods(core, bench))
    admitted = {"nodeSelector": {"kubernetes.io/hostname": f"{bench.name}-h100-0"}, "schedulingGates": None}
    core.patch_namespaced_pod(placed, bench.name, {"spec": admitted})
    until(lambda: places(core, bench) == {placed: f"{bench.name}-h100-0", gated: "gated"})

    assert bench.up() == {}
    bench.serve(slo__ttft_s=3.0)
    bench.up()
    assert places(core, bench) == {placed: f"{bench.name}-h100-0", gated: "gated"}
    bench.serve(slo__ttft_s=3.0, stages__decode__batch=64)
    bench.up()
    assert apps.read_namespaced_deployment(DECODE, bench.name).spec.replicas == 2
    # Kubernetes replaces the gated pod at once, and the one that runs when its successor does.
    until(lambda: gated not in places(core, bench) and len(places(core, bench)) == 2)
    assert places(core, bench)[placed] == f"{bench.name}-h100-0"


def test_a_stack_that_cannot_work_is_refused_before_anything_is_created(bench, kube):
    """With the numbers; with nodes enough the next `up` creates it."""
    bench.serve()
    simulated = {"nodes": 2}
    bench.config["tercet:node_pools"] = {
        "h100": {"hardware": "h100", "accelerators": 4, "simulated": simulated}
    }
    with pytest.raises(CommandError, match=r"least replicas take 9 h100 .* and the pools have room for 8"):
        bench.up()
    assert bench.there(kube) == bench.recorded() == set()
    simulated["nodes"] = 3
    bench.up()
    assert len(bench.there(kube)) == len(bench.objects())


def test_a_quota_that_is_exceeded_is_named_and_the_next_up_mends(bench, kube, core):
    bench.serve()
    bench.up()
    count = sum(each["kind"] == "Deployment" for each in bench.objects())
    hard = {"count/deployments.apps": str(count)}
    core.create_namespaced_resource_quota(bench.name, {"metadata": {"name": "few"}, "spec": {"hard": hard}})
    until(lambda: core.read_namespaced_resource_quota("few", bench.name).status.used == hard)
    bench.serve("second")
    with pytest.raises(CommandError, match=r"exceeded quota: few, requested: count/deployments.apps=1"):
        bench.up()
    assert bench.recorded() == bench.there(kube)
    core.delete_namespaced_resource_quota("few", bench.name)
    mended = bench.up()
    assert f"{bench.name}/second-gateway" in mended
    assert len(bench.there(kube)) == len(bench.objects())
    assert bench.up() == {}


def test_a_definition_that_is_missing_is_named_and_the_next_up_mends(bench, kube):
    """Karpenter's, on a cluster without it."""
    bench.serve()
    karpenter = {"instance_types": ["p5.48xlarge"], "max_accelerators": 16, "role": "node", "discovery": "c"}
    bench.config["tercet:node_pools"] = {"h100": {"hardware": "h100", "karpenter": karpenter}}
    with pytest.raises(CommandError, match=r'no matches for kind "\w+" in version "karpenter'):
        bench.up()
    assert bench.recorded() == bench.there(kube)
    for file in (ROOT / "tests/cluster/crds").glob("karpenter*"):
        install(kube, yaml.safe_load(file.read_text()))
    bench.up()
    assert len(bench.there(kube)) == len(bench.objects())
    assert bench.up() == {}


def test_a_field_that_somebody_took_over_is_not_overwritten(bench, kube, core):
    """The message names who has it."""
    bench.serve()
    bench.up()
    theirs = next(each for each in bench.objects() if each["metadata"]["name"] == "small-policy")
    kube.apply(theirs | {"data": {"policy.yaml": "theirs"}}, "somebody", force=True)
    bench.serve(slo__ttft_s=3.0)
    with pytest.raises(CommandError, match=r'conflict with "somebody": .data.policy.yaml'):
        bench.up()
    assert core.read_namespaced_config_map("small-policy", bench.name).data == {"policy.yaml": "theirs"}


def test_labels_of_nodes_that_exist_come_and_go(bench, core):
    """The nodes stay."""
    for number in range(2):
        core.create_node(simulated_node(f"theirs-{number}", labels={"theirs": "kept"}))
    bench.serve()
    labels = {"selector": {"theirs": "kept"}, "labels": {"example.com/rack": "r1"}}
    bench.config["tercet:node_pools"] = {"h100": {"hardware": "h100", "labels": labels}}
    bench.up()
    ours = {HARDWARE: "h100", "example.com/rack": "r1"}
    assert core.read_node("theirs-0").metadata.labels.items() >= (ours | {"theirs": "kept"}).items()
    bench.destroy()
    assert not core.read_node("theirs-0").metadata.labels.keys() & ours.keys()
    assert core.read_node("theirs-0").metadata.labels["theirs"] == "kept"


def templates(apps, bench):
    """Return the pod templates of the stack by Deployment."""
    found = apps.list_namespaced_deployment(bench.name).items
    return {each.metadata.name: each.spec.template.to_dict() for each in found}


def rollout(bench):
    """Return the name of the ConfigMap that the decode pods name."""
    ids = [id_of(each) for each in bench.objects() if each["kind"] == "ConfigMap"]
    return next(each for each in ids if DECODE in each)


def pods(core, bench):
    return core.list_namespaced_pod(bench.name, label_selector=f"{STAGE}=decode").items


def places(core, bench):
    """Return each decode pod's node, or that it is gated."""
    return {
        pod.metadata.name: "gated" if pod.spec.scheduling_gates else pod.spec.node_name
        for pod in pods(core, bench)
        if not pod.metadata.deletion_timestamp
    }


def install(kube, definition):
    """Install a CustomResourceDefinition and see that its kind is served."""
    kube.apply(definition, "test")

    def established():
        status = kube.get(definition).get("status", {})
        return any(each["type"] == "Established" for each in status.get("conditions") or ())

    until(established)
