"""A real control plane on this machine: what it refuses, what it schedules, and that nothing of it stays."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from cli.localcluster.nodes import add_nodes
from cli.localcluster.plane import ControlPlaneDied, running
from orchestrator.kube_names import ACCELERATOR_RESOURCE, GATE, HARDWARE
from orchestrator.simulator.fleet_spec import parse_fleet
from tests.cluster.objects import LEVELS, Api, is_ready
from tests.system.harness import ROOT, until

pytestmark = pytest.mark.cluster

GATED = [{"name": GATE}]


def test_nobody_gets_in_without_a_token(plane):
    answer = httpx.get(f"{plane.url}/api/v1/nodes", verify=False, trust_env=False)
    assert answer.status_code == 403
    assert 'User \\"system:anonymous\\" cannot list' in answer.text


def test_a_replica_lands_on_a_node_with_accelerators_and_is_ready_after_its_cold_start(api):
    limits = {"resources": {"limits": {ACCELERATOR_RESOURCE: "8"}}}
    started_s = time.monotonic()
    api.pod(
        "replica",
        containers=[{"name": "c", "image": "none", **limits}],
        nodeSelector={HARDWARE: "h100"},
        annotations={"tercet.dev/cold-start": "3s"},
    )
    until("it is ready", lambda: all(map(is_ready, api.pods())), 30.0)
    assert time.monotonic() - started_s > 3.0
    assert api.node_of("replica").startswith("h100-")


def test_a_gated_pod_waits_and_then_lands_in_the_rack_that_is_chosen(api):
    api.pod("gated", schedulingGates=GATED)
    until("it is seen to wait", lambda: "SchedulingGated" in str(api.pods()[0].status.conditions))
    rack = api.rack_of("a100-00009")
    body = {"spec": {"schedulingGates": [], "nodeSelector": dict(zip(LEVELS, rack, strict=True))}}
    api.core.patch_namespaced_pod("gated", api.namespace, body, _content_type="application/merge-patch+json")
    node = until("it has a node", lambda: api.node_of("gated"), 10.0)
    assert api.rack_of(node) == rack


def test_a_pod_may_be_told_to_fail(api):
    api.pod("fails", annotations={"tercet.dev/fails": "true"})
    until("it fails", lambda: api.pods()[0].status.phase == "Failed", 10.0)


def test_several_run_side_by_side(plane, found):
    with running(found) as other:
        add_nodes(other.kubeconfig, parse_fleet("l40s=1x4", LEVELS), LEVELS)
        assert other.url != plane.url
        with Api(other.kubeconfig) as api:
            assert [node.metadata.name for node in api.core.list_node().items] == ["l40s-00000"]


def test_a_program_that_dies_is_told_with_its_last_words(found):
    with running(found) as plane:
        plane.check()
        os.kill(plane.pids["etcd"], signal.SIGKILL)
        with pytest.raises(ControlPlaneDied, match=r"etcd ended with -9:\n.*\S"):
            until("it is noticed", lambda: plane.check() or False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_is_ready_in_time_and_leaves_nothing(number):
    """Ready means: the API answers and the nodes are there."""
    started_s = time.monotonic()
    command = [sys.executable, "-m", "cli", "cluster", "--fleet", "h100=2x8"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        took_s = time.monotonic() - started_s
        folder = Path(line.removeprefix("kubeconfig: ").strip()).parent
        group = [path for path in Path("/proc").glob("[0-9]*") if str(folder).encode() in _command(path)]
        assert len(group) == 5, "etcd, API server, controllers, scheduler, KWOK"
        process.send_signal(number)
        assert process.wait(30.0) == 0
    assert took_s < 20.0, "ten seconds on a free machine"
    assert not folder.exists()
    assert not [path for path in group if path.exists()]


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes() + str((process / "cwd").resolve()).encode()
    except OSError:
        return b""
