import os
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from kubernetes import client

from localcluster import layout
from localcluster.cluster import running_cluster
from localcluster.nodes import DRAIN, FAIL, FAIL_AFTER, GONE, RUN, UNREADY, WAITING, simulated_node
from localcluster.processes import ProcessDied
from orchestrator.kube_names import COLD_START, PROVISIONING
from stages.free_ports import free_ports
from tests.cluster.conftest import api, timed, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

RACK = "topology.tercet.dev/rack"
GATE = "tercet.dev/placement"


@pytest.fixture(scope="module")
def racks(core):
    """One node of eight GPUs in each of two racks."""
    for rack in ("a", "b"):
        core.create_node(simulated_node(f"rack-{rack}-0", labels={RACK: rack}))
    until(lambda: all(is_ready(node) for node in core.list_node().items))


def is_ready(thing):
    conditions = {each.type: each.status for each in thing.status.conditions or ()}
    return conditions.get("Ready") == "True"


def pod(name, *, gpus=1, gated=False, **annotations):
    limits = {"nvidia.com/gpu": str(gpus)}
    return {
        "metadata": {"name": name, "labels": {"app": name}, "annotations": annotations},
        "spec": {
            "containers": [{"name": "engine", "image": "engine", "resources": {"limits": limits}}],
            **({"schedulingGates": [{"name": GATE}]} if gated else {}),
        },
    }


def trust(cluster):
    return ssl.create_default_context(cafile=cluster.ca)


def condition(thing, kind):
    return next((each for each in thing.status.conditions or () if each.type == kind), None)


def test_a_cluster_is_up_in_ten_seconds(capsys):
    """From nothing to an API server that takes pods, and down again."""
    folders = []

    def come_and_go():
        with running_cluster() as running:
            folders.append(running.folder)
            client.CoreV1Api(api(running)).create_namespaced_pod("default", pod("first"))

    took_s, busy_s = timed(come_and_go)
    with capsys.disabled():
        print(f"\na control plane came and went in {took_s:.1f} s, of processors {busy_s:.1f} s")
    assert busy_s < 10.0
    assert not any(folder.exists() for folder in folders)


def test_strangers_are_refused(cluster):
    """Anonymous clients and false tokens get nothing, and only TLS is spoken."""
    with httpx.Client(base_url=cluster.url, verify=trust(cluster), trust_env=False) as stranger:
        assert stranger.get("/api/v1/pods").status_code == 403
        false = {"Authorization": "Bearer false"}
        assert stranger.get("/api/v1/pods", headers=false).status_code == 401
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{cluster.url}/readyz", trust_env=False)


def test_an_account_may_do_what_its_role_names(cluster, core, namespace):
    """RBAC is on: a service account reads no pods until a role lets it."""
    core.create_namespaced_service_account(namespace, {"metadata": {"name": "reader"}})
    token = core.create_namespaced_service_account_token("reader", namespace, {"spec": {}}).status.token
    rbac = client.RbacAuthorizationV1Api(api(cluster))

    def status():
        headers = {"Authorization": f"Bearer {token}"}
        path = f"{cluster.url}/api/v1/namespaces/{namespace}/pods"
        return httpx.get(path, headers=headers, verify=trust(cluster), trust_env=False).status_code

    assert status() == 403
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}
    rbac.create_namespaced_role(namespace, {"metadata": {"name": "reader"}, "rules": [rule]})
    subject = {"kind": "ServiceAccount", "name": "reader", "namespace": namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}
    binding = {"metadata": {"name": "reader"}, "roleRef": role, "subjects": [subject]}
    rbac.create_namespaced_role_binding(namespace, binding)
    until(lambda: status() == 200)


@pytest.mark.usefixtures("racks")
def test_a_deployment_is_ready_after_its_cold_start(cluster, namespace):
    """Not before: KWOK waits as long as the pods' annotation says."""
    apps = client.AppsV1Api(api(cluster))
    template = pod("engine", gpus=8, **{COLD_START: "3s"})
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "engine"}}, "template": template}
    apps.create_namespaced_deployment(namespace, {"metadata": {"name": "engine"}, "spec": spec})
    took_s = until(
        lambda: apps.read_namespaced_deployment_status("engine", namespace).status.ready_replicas == 1
    )
    assert took_s > 2.5


@pytest.mark.usefixtures("racks")
def test_a_gated_pod_lands_in_the_rack_that_it_is_given(core, namespace):
    """It waits for its gate to go; the node selector put beside it then decides."""
    core.create_namespaced_pod(namespace, pod("gated", gated=True))

    def gated():
        scheduled = condition(core.read_namespaced_pod("gated", namespace), "PodScheduled")
        return scheduled is not None and scheduled.reason == "SchedulingGated"

    until(gated)
    placed = {"spec": {"nodeSelector": {RACK: "b"}, "schedulingGates": None}}
    core.patch_namespaced_pod("gated", namespace, placed)
    until(lambda: is_ready(core.read_namespaced_pod("gated", namespace)))
    assert core.read_namespaced_pod("gated", namespace).spec.node_name == "rack-b-0"


@pytest.mark.usefixtures("racks")
def test_more_gpus_than_a_node_has_stay_pending(core, namespace):
    """The scheduler counts GPUs and says that there are too few."""
    core.create_namespaced_pod(namespace, pod("large", gpus=9))

    def refused():
        scheduled = condition(core.read_namespaced_pod("large", namespace), "PodScheduled")
        return scheduled is not None and "Insufficient nvidia.com/gpu" in (scheduled.message or "")

    until(refused)


@pytest.mark.usefixtures("racks")
def test_a_pod_fails_by_annotation(core, namespace):
    """A running pod fails with the reason given, and a deleted one goes."""
    core.create_namespaced_pod(namespace, pod("doomed"))
    until(lambda: is_ready(core.read_namespaced_pod("doomed", namespace)))
    core.patch_namespaced_pod("doomed", namespace, {"metadata": {"annotations": {FAIL: "OOMKilled"}}})
    until(lambda: core.read_namespaced_pod("doomed", namespace).status.phase == "Failed")
    assert core.read_namespaced_pod("doomed", namespace).status.reason == "OOMKilled"
    core.delete_namespaced_pod("doomed", namespace)
    until(lambda: not core.list_namespaced_pod(namespace).items)


@pytest.mark.usefixtures("racks")
def test_a_pod_that_failed_stays_so_and_its_deployment_makes_another(cluster, core, namespace):
    """Also when the annotation goes, as Kubernetes has it."""
    apps = client.AppsV1Api(api(cluster))
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "engine"}}, "template": pod("engine")}
    apps.create_namespaced_deployment(namespace, {"metadata": {"name": "engine"}, "spec": spec})

    def ready():
        return [each.metadata.name for each in core.list_namespaced_pod(namespace).items if is_ready(each)]

    until(lambda: len(ready()) == 1)
    (first,) = ready()
    core.patch_namespaced_pod(first, namespace, {"metadata": {"annotations": {FAIL: "OOMKilled"}}})
    until(lambda: len(ready()) == 1 and ready() != [first])
    core.patch_namespaced_pod(first, namespace, {"metadata": {"annotations": {FAIL: None}}})
    core.create_namespaced_pod(namespace, pod("later"))
    until(lambda: "later" in ready())
    assert core.read_namespaced_pod(first, namespace).status.phase == "Failed"


@pytest.mark.usefixtures("racks")
def test_a_pod_fails_and_goes_as_late_as_its_annotations_say(core, namespace):
    core.create_namespaced_pod(namespace, pod("late", **{FAIL: "OOMKilled", FAIL_AFTER: "2s"}))
    assert until(lambda: core.read_namespaced_pod("late", namespace).status.phase == "Failed") > 1.5
    core.delete_namespaced_pod("late", namespace)
    core.create_namespaced_pod(namespace, pod("busy", **{DRAIN: "2s"}))
    until(lambda: is_ready(core.read_namespaced_pod("busy", namespace)))
    core.delete_namespaced_pod("busy", namespace)
    assert until(lambda: not core.list_namespaced_pod(namespace).items) > 1.5


@pytest.mark.usefixtures("racks")
def test_a_pod_runs_and_is_not_ready_by_annotation(core, namespace):
    """From its start or later; it is ready when the annotation goes."""
    core.create_namespaced_pod(namespace, pod("stuck", **{UNREADY: "ProbeFailed"}))

    def reason():
        found = condition(core.read_namespaced_pod("stuck", namespace), "Ready")
        return found and found.reason

    def annotate(value):
        core.patch_namespaced_pod("stuck", namespace, {"metadata": {"annotations": {UNREADY: value}}})

    until(lambda: reason() == "ProbeFailed")
    assert core.read_namespaced_pod("stuck", namespace).status.phase == "Running"
    annotate(None)
    until(lambda: is_ready(core.read_namespaced_pod("stuck", namespace)))
    annotate("Overloaded")
    until(lambda: reason() == "Overloaded")


@pytest.mark.usefixtures("racks")
def test_a_pod_waits_for_its_image_by_annotation(core, namespace):
    """With the reason given, without starting, until the annotation goes."""
    core.create_namespaced_pod(namespace, pod("imageless", **{WAITING: "ErrImagePull"}))

    def waits():
        found = core.read_namespaced_pod("imageless", namespace).status
        return [each.state.waiting.reason for each in found.container_statuses or ()] == ["ErrImagePull"]

    until(waits)
    assert core.read_namespaced_pod("imageless", namespace).status.phase == "Pending"
    core.patch_namespaced_pod("imageless", namespace, {"metadata": {"annotations": {WAITING: None}}})
    until(lambda: is_ready(core.read_namespaced_pod("imageless", namespace)))


def test_a_node_goes_by_annotation_and_its_pods_after_it(core, namespace):
    """Kubernetes notices the pods that have no node any more, after most of a minute."""
    core.create_node(simulated_node("spot-0"))
    until(lambda: is_ready(core.read_node("spot-0")))
    lost = pod("lost")
    lost["spec"]["nodeSelector"] = {"kubernetes.io/hostname": "spot-0"}
    core.create_namespaced_pod(namespace, lost)
    until(lambda: is_ready(core.read_namespaced_pod("lost", namespace)))
    core.patch_node("spot-0", {"metadata": {"annotations": {GONE: "1s"}}})
    until(lambda: "spot-0" not in {node.metadata.name for node in core.list_node().items})
    until(lambda: not core.list_namespaced_pod(namespace).items, 120.0)


@pytest.mark.usefixtures("racks")
def test_a_job_ends(cluster, namespace):
    """Its pod runs for as long as it says, and completes."""
    batch = client.BatchV1Api(api(cluster))
    template = pod("once", **{RUN: "2s"})
    template["spec"]["restartPolicy"] = "Never"
    batch.create_namespaced_job(namespace, {"metadata": {"name": "once"}, "spec": {"template": template}})
    assert until(lambda: batch.read_namespaced_job_status("once", namespace).status.succeeded == 1) > 1.5


def test_a_node_takes_its_time_and_fails_by_annotation(core):
    """Provisioning delays readiness; a failed node is unready until the annotation goes."""
    core.create_node(simulated_node("slow-0", annotations={PROVISIONING: "2s"}))
    assert until(lambda: is_ready(core.read_node("slow-0"))) > 1.5
    core.patch_node("slow-0", {"metadata": {"annotations": {FAIL: "XidError", PROVISIONING: None}}})
    until(lambda: condition(core.read_node("slow-0"), "Ready").reason == "XidError")
    core.patch_node("slow-0", {"metadata": {"annotations": {FAIL: None}}})
    until(lambda: is_ready(core.read_node("slow-0")))
    core.delete_node("slow-0")


def test_two_clusters_know_nothing_of_each_other(core):
    """Side by side on one machine."""
    with running_cluster() as other:
        beside = client.CoreV1Api(api(other))
        beside.create_node(simulated_node("other-0"))
        until(lambda: is_ready(beside.read_node("other-0")))
        assert "other-0" not in {node.metadata.name for node in core.list_node().items}


def test_a_program_that_dies_is_named():
    """With the end of its log, and the rest ends with it."""
    with pytest.raises(ProcessDied, match="kube-scheduler ended"), running_cluster() as running:
        pids = running.processes.pids()
        os.kill(pids["kube-scheduler"], signal.SIGKILL)
        running.watch(poll_s=0.05)
    assert not any(Path("/proc", str(pid)).exists() for pid in pids.values())


def test_a_taken_port_costs_a_second_start(monkeypatch):
    """Ports are free when they are chosen and may not be a moment later."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([[*free_ports(2), taken.getsockname()[1]]])
        monkeypatch.setattr(layout, "free_ports", lambda count: next(ports, None) or free_ports(count))
        with running_cluster() as running:
            client.CoreV1Api(api(running)).list_node()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_nothing(stop, tmp_path):
    """No process, no folder, and success."""
    command = [sys.executable, "-m", "cli", "cluster"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as running:
        line = running.stdout.readline()
        while not line.startswith("kubeconfig: "):
            assert line, "ended before it was ready"
            line = running.stdout.readline()
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        assert len(children) == 5
        running.send_signal(stop)
        assert running.wait(10) == 0
    assert not any(Path("/proc", pid).exists() for pid in children)
    assert not list(tmp_path.glob("tercet-cluster-*"))
