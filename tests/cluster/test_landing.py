"""Where the pods of the simulated stack land: three kinds of GPUs over 2 zones of 2 blocks of 4 racks."""

import asyncio
import collections
import dataclasses
import time

import pytest
from kubernetes import client

from infra.objects.controller import NAME
from infra.stack import stack_args
from orchestrator.adapters.kube import KubeCluster, client_of
from orchestrator.control_policy import Hardware
from orchestrator.controller import Controller, ServicePolicy
from orchestrator.core.changes import Create
from orchestrator.core.pools import Admit, Pool
from orchestrator.kube_names import HARDWARE, STAGE
from stages.types import Stage
from tests.cluster.conftest import api, until
from tests.cluster.objects import LEVELS, is_ready
from tests.cluster.raw import Raw, kubeconfig_of, token_of
from tests.fakes.ledger import FakeLedger
from tests.infra.kit import ACCELERATORS, ROOT, config_of, example

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

SERVICE, GATED, FREE, NEAR = "internvl-26b", "tercet", "free", "near"
AT_ONCE = dataclasses.replace(example("simulated"), starts=None)
RACKS = {(f"d-{z}", f"d-{z}-{b}", f"d-{z}-{b}-{r}") for z in range(2) for b in range(2) for r in range(4)}
POOLS = [
    Pool(SERVICE, Stage.ENCODE, "l40s"),
    Pool(SERVICE, Stage.ENCODE, "a100"),
    Pool(SERVICE, Stage.PREFILL, "h100"),
]


@pytest.fixture(scope="module")
def raw(cluster, core):
    """A cluster with the whole stack."""
    with Raw(cluster) as raw:
        create(raw, core, stack_args(AT_ONCE, ROOT, ACCELERATORS).objects(), GATED)
        until(lambda: all(is_ready(node) for node in core.list_node().items))
        yield raw


def create(raw, core, objects, namespace):
    for thing in objects:
        answer = raw.create(thing)
        assert answer.is_success, answer.text
        if thing["kind"] == "Namespace":
            until(lambda: core.list_namespaced_service_account(namespace).items)


@pytest.fixture(scope="module")
def apps(cluster):
    return client.AppsV1Api(api(cluster))


@pytest.fixture
def ours(cluster, raw, core, tmp_path):
    """The controller's own adapter with its own account."""
    file = kubeconfig_of(cluster, token_of(core, NAME, GATED), tmp_path)
    return KubeCluster(client_of(file), GATED, [SERVICE], LEVELS)


def name_of(pool):
    return "-".join(pool[:3])


@pytest.fixture
def gated(ours, apps):
    """Return a way to have a pool want so many pods, all of which wait; afterwards it has none."""
    grown = []

    def scale(pool, replicas):
        count = {"spec": {"replicas": replicas}}
        apps.patch_namespaced_deployment_scale(name_of(pool), GATED, count)
        until(lambda: len(pods_of(ours, pool)) == replicas)

    def grow(pool, replicas):
        grown.append(pool)
        scale(pool, replicas)
        return pods_of(ours, pool)

    yield grow
    for pool in grown:
        scale(pool, 0)


def pods_of(ours, pool):
    return sorted(pod.name for pod in ours.look(0.0).pods if pod.pool == pool)


def place(ours, pool, pod, domain):
    create = Create(
        service=SERVICE, stage=pool.stage, hardware=pool.hardware, tp=1, node_id="", domain=domain
    )
    ours.admit(Admit(pod=pod, create=create), 0.0)


def nodes_of(core, namespace):
    """Return each bound pod's labels with those of its node."""
    nodes = {node.metadata.name: node.metadata.labels for node in core.list_node().items}
    pods = core.list_namespaced_pod(namespace).items
    return [(pod.metadata.labels, nodes[pod.spec.node_name]) for pod in pods if pod.spec.node_name]


def test_a_pool_has_a_node_in_every_rack(ours):
    """What the tests below place pods into."""
    found = collections.Counter((node.hardware, node.domain) for node in ours.look(0.0).nodes)
    assert {domain for _, domain in found if len(domain) == len(LEVELS)} == RACKS
    for hardware in ("h100", "a100", "l40s"):
        assert {found[hardware, rack] for rack in RACKS} == {1}


@pytest.mark.parametrize("pool", POOLS, ids=name_of)
def test_a_pod_lands_in_the_rack_that_it_is_given(ours, gated, pool):
    """One replica for each of sixteen racks: on a node of its hardware, in that very rack."""
    given = dict(zip(gated(pool, len(RACKS)), sorted(RACKS), strict=True))
    for pod, rack in given.items():
        place(ours, pool, pod, rack)
    mine = lambda: [pod for pod in ours.look(0.0).pods if pod.name in given]  # noqa: E731
    until(lambda: all(pod.ready for pod in mine()), timeout_s=60.0)
    nodes = {node.node_id: node for node in ours.look(0.0).nodes}
    assert {pod.name: nodes[pod.node_id].domain for pod in mine()} == given
    assert {nodes[pod.node_id].hardware for pod in mine()} == {pool.hardware}


def test_a_block_is_any_of_its_racks_and_a_full_rack_is_none(ours, core, gated):
    """A domain may be a wider level; a rack without room keeps its pod waiting though others have some."""
    pool = Pool(SERVICE, Stage.DECODE, "h100")
    rack, block = sorted(RACKS)[0], sorted(RACKS)[-1][:2]
    first, second, late, wide = gated(pool, 4)
    for pod in (first, second):  # of four GPUs each, which are all that the rack has
        place(ours, pool, pod, rack)
        until(lambda pod=pod: core.read_namespaced_pod(pod, GATED).spec.node_name)
    place(ours, pool, late, rack)
    place(ours, pool, wide, block)
    until(lambda: core.read_namespaced_pod(wide, GATED).spec.node_name)
    nodes = {node.node_id: node.domain for node in ours.look(0.0).nodes}
    assert nodes[core.read_namespaced_pod(wide, GATED).spec.node_name][:2] == block
    assert refusal(core, late, GATED, "Insufficient nvidia.com/gpu")


def refusal(core, pod, namespace, told):
    """Wait until the scheduler says that, of a pod that it cannot place."""

    def said():
        conditions = core.read_namespaced_pod(pod, namespace).status.conditions or ()
        return any(each.reason == "Unschedulable" and told in each.message for each in conditions)

    return until(said)


def test_the_controller_places_replicas_on_processors(cluster, raw, core, tmp_path):
    """Which it counts as it counts accelerators, less what gateways and Redis hold on those nodes."""
    config = config_of(services={"tiny": {"policy": "policies/tiny.yaml"}}, namespace="plain")
    create(raw, core, stack_args(config, ROOT, ACCELERATORS).objects(), "plain")
    file = kubeconfig_of(cluster, token_of(core, NAME, "plain"), tmp_path)
    service = ServicePolicy(ROOT / "policies/tiny.yaml", Hardware.load())
    ours = KubeCluster(client_of(file), "plain", ["tiny"], ())
    controller = Controller(ours, [FakeLedger()], {"tiny": service}, time.time)

    def serves():
        asyncio.run(controller.tick())
        return {pod.pool.stage for pod in ours.look(0.0).pods if pod.ready} == set(Stage)

    until(serves)
    assert {node[HARDWARE] for pod, node in nodes_of(core, "plain") if STAGE in pod} == {"cpu"}
    # Of 32 processors two gateways, controllers, publishers and Redis ask for 4 and two twentieths.
    until(lambda: 26 <= sum(n.accelerators for n in ours.look(0.0).nodes if n.hardware == "cpu") <= 28)


def test_without_a_gate_stages_rather_share_a_zone(raw, core, tmp_path):
    """Of an encoder, a prefill and a decode replica each lands in the zone of the first."""
    text = (ROOT / "policies/internvl-26b.yaml").read_text().partition("demand:")[0]
    (tmp_path / "near.yaml").write_text(text.replace("[h20, h100]", "[h100]"))
    service = {"policy": str(tmp_path / "near.yaml"), "autoscaler": "none"}
    near = config_of(services={SERVICE: service}, namespace=NEAR)
    create(raw, core, stack_args(near, ROOT, ACCELERATORS).objects(), NEAR)
    until(lambda: len(zones(core)) == len(Stage))
    assert len(set(zones(core))) == 1


def zones(core):
    return [node[LEVELS[0]] for pod, node in nodes_of(core, NEAR) if STAGE in pod]


def test_without_a_gate_pods_find_their_hardware_by_themselves(raw, core):
    """Pools by affinity, all else on nodes without accelerators; what no node has waits and says so."""
    services = {SERVICE: dataclasses.replace(AT_ONCE.services[SERVICE], autoscaler="none")}
    free = dataclasses.replace(AT_ONCE, namespace=FREE, node_pools={}, services=services)
    objects = list(stack_args(free, ROOT, ACCELERATORS).objects())
    for thing in objects:
        if thing["kind"] == "Deployment" and STAGE in thing["metadata"]["labels"]:
            thing["spec"]["replicas"] = 2
    create(raw, core, objects, FREE)
    # Pools of five classes, of which h20 has no node; a gateway, the publisher and Redis.
    until(lambda: len(nodes_of(core, FREE)) == 4 * 2 + 3)
    for pod, node in nodes_of(core, FREE):
        assert node[HARDWARE] == pod.get(HARDWARE, "cpu")
    (lost, *_) = core.list_namespaced_pod(FREE, label_selector=f"{HARDWARE}=h20").items
    assert refusal(core, lost.metadata.name, FREE, "didn't match Pod's node affinity")
