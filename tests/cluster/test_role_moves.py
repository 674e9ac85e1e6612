"""Pods that take another role on a real control plane: one ReplicaSet lets them go, another adopts them."""

import asyncio

import pytest

from infra.objects.controller import ControllerArgs
from infra.shared_config import BrokerConfig
from localcluster.nodes import simulated_node
from orchestrator.adapters.kube import KubeCluster, client_of
from orchestrator.controller import Controller
from orchestrator.core.changes import Changes, Create, Remove, Switch
from orchestrator.core.pools import Admit, Pool, steps
from orchestrator.counting import steady_unix_s
from orchestrator.kube_names import HARDWARE, MOVABLE
from stages.engines import EXIT_ROLE_REFUSED
from stages.types import Stage
from tests.cluster.conftest import until
from tests.cluster.loop import account_for
from tests.cluster.objects import Api
from tests.fakes.ledger import FakeLedger
from tests.orchestrator.test_role_moves import Counts, hear

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

P, D = Pool("s", Stage.PREFILL, "h100"), Pool("s", Stage.DECODE, "h100")
ROUNDS = 6


@pytest.fixture
def api(cluster):
    with Api(cluster.kubeconfig) as api:
        yield api


@pytest.fixture
def ours(cluster, core, api, tmp_path):
    """A cluster as its controller sees it: a node for all, and three replicas that run in either pool."""
    core.create_node(simulated_node("n", labels={HARDWARE: "h100"}))
    names = tuple(api.pool(pool, 1, 3, annotations={MOVABLE: "true"}) for pool in (P, D))
    args = ControllerArgs(
        namespace=api.namespace, services=("s",), pools=names, image="none", broker=BrokerConfig()
    )
    account = account_for(cluster, api, tmp_path, args)
    ours = KubeCluster(client_of(account), api.namespace, ["s"], ())
    until(lambda: len(pods(ours)) == 6)
    for pod in pods(ours).values():
        create = Create(service="s", stage=pod.pool.stage, hardware="h100", tp=1, node_id="n")
        ours.admit(Admit(pod=pod.name, create=create), 0.0)
    until(lambda: all(pod.ready for pod in pods(ours).values()), 60.0)
    yield ours
    core.delete_node("n")


def pods(ours):
    return {pod.name: pod for pod in ours.look(0.0).pods}


def of(ours, pool):
    return {name for name, pod in pods(ours).items() if pod.pool == pool and not pod.gated}


def gated(ours):
    return {name: pod.pool for name, pod in pods(ours).items() if pod.gated}


def step(ours, changes):
    """Do what brings the cluster nearer to changes; return what that was."""
    seen = ours.look(0.0)
    todo = steps(changes, seen.pods, seen.counts, {pod.name: pod.name for pod in seen.pods})
    for move in todo.move:
        ours.move(move, 1.0)
    for scale in todo.scale:
        ours.scale(scale)
    return todo


def test_a_pod_changes_its_pool_and_nothing_else_starts_or_ends(ours, api):
    """To and fro, each at once after the other: whoever runs goes on running."""
    uids = {pod.metadata.name: pod.metadata.uid for pod in api.pods()}
    for number in range(ROUNDS):
        source, target = (P, D) if number % 2 == 0 else (D, P)
        before = ours.look(0.0).counts
        name = sorted(of(ours, source))[number % 3]
        switch = Changes(switch=(Switch(replica_id=name, service="s", stage=source.stage, to=target.stage),))
        first = step(ours, switch)
        assert [(scale.pool, scale.replicas) for scale in first.scale] == [(target, before[target] + 1)]
        until(lambda: gated(ours))
        second = step(ours, switch)
        assert [move.pod for move in second.move] == [name] and not second.scale
        assert name in of(ours, target)
        # What it stood for goes, and what stands for it in its old pool waits until the count there falls.
        until(lambda source=source: set(gated(ours).values()) == {source})
        (waiting,) = gated(ours)
        step(ours, Changes(remove=(Remove(replica_id=waiting, service="s", stage=source.stage),)))
        until(lambda: not gated(ours))
        assert ours.look(0.0).counts == {source: before[source] - 1, target: before[target] + 1}
        assert {pod.metadata.name: pod.metadata.uid for pod in api.pods()} == uids
        (owner,) = next(p for p in api.pods() if p.metadata.name == name).metadata.owner_references
        assert target.stage in owner.name
        assert not any(pod.leaving for pod in pods(ours).values())


def test_a_worker_whose_server_does_not_change_is_seen_to_have_failed(ours, core, api):
    """By the code with which it ended, as long as its pod is not ready."""
    name = sorted(of(ours, D))[0]
    assert not pods(ours)[name].failed
    ended = {"terminated": {"exitCode": EXIT_ROLE_REFUSED}}
    container = {"name": "worker", "image": "none", "imageID": "", "ready": False, "restartCount": 1}
    status = {
        "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [container | {"state": {"running": {}}, "lastState": ended}],
    }
    core.patch_namespaced_pod_status(name, api.namespace, {"status": status})
    until(lambda: pods(ours)[name].failed)


def test_the_controller_moves_a_pod_and_waits_until_it_has_changed_its_role(ours, api):
    """Kubernetes' own controllers do the rest, between ticks that come as fast as they may."""
    uids = {pod.metadata.name: pod.metadata.uid for pod in api.pods()}
    ledger, does, counts = FakeLedger(), {}, Counts(0, 2, 4, "h100")
    clock = steady_unix_s()
    controller = Controller(ours, [ledger], {"s": counts}, clock)

    def seen():
        async def tick():
            await hear(ledger, pods(ours).values(), does, clock())
            return await controller.tick()

        stages = asyncio.run(tick()).signals["s"].stages
        return {stage: (stages[stage].ready, stages[stage].coming) for stage in (P.stage, D.stage)}

    until(lambda: seen() == {P.stage: (2, 0), D.stage: (3, 1)})
    (name,) = of(ours, D) - {name for name, stage in does.items() if stage is D.stage}
    does[name] = D.stage
    until(lambda: seen() == {P.stage: (2, 0), D.stage: (4, 0)})
    until(lambda: seen() and not gated(ours))
    assert {pod.metadata.name: pod.metadata.uid for pod in api.pods()} == uids
    assert ours.look(0.0).counts == {P: 2, D: 4}
