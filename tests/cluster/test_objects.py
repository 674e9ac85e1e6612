"""Every object of every example stack, as the API server sees it."""

import pytest

from infra.adopt import ProviderCluster, adopt
from infra.config import parse_config
from infra.stack import stack_args
from localcluster.nodes import simulated_node
from tests.cluster.raw import Raw, define
from tests.infra.kit import ACCELERATORS, EXAMPLES, ROOT, example, pulumi_values
from tests.infra.test_docs import FEDERATION, STACKS, federation_objects_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

CRDS = sorted((ROOT / "tests/cluster/crds").glob("*.yaml"))
STRICT = {"dryRun": "All", "fieldValidation": "Strict"}


@pytest.fixture(scope="module")
def raw(cluster):
    """A client to a cluster with the definitions of all resources that are not Kubernetes' own."""
    with Raw(cluster) as raw:
        for file in CRDS:
            define(raw, file)
        yield raw


@pytest.fixture
def stack(request, cluster, raw):
    """The arguments of an example stack, and the nodes that it takes for granted."""
    config = example(request.param)
    for name, pool in config.node_pools.items():
        if pool.labels:
            for node in pool.labels.nodes or (f"{name}-0", f"{name}-1"):
                assert raw.create(simulated_node(node, labels=pool.labels.selector)).is_success
    adopted = adopt(config, ProviderCluster({"kubernetes:kubeconfig": str(cluster.kubeconfig)}))
    raw.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": config.namespace}})
    return stack_args(adopted, ROOT, ACCELERATORS)


def refused(raw, things):
    """Return what the server says against which object."""
    answers = [(thing, asked(raw, thing)) for thing in things]
    return [
        f"{thing['kind']} {thing['metadata']['name']}: {answer.json()['message']}"
        for thing, answer in answers
        if not answer.is_success
    ]


def asked(raw, thing):
    """Have the server check an object, in the way in which Pulumi's provider would send it."""
    if thing["kind"] == "NodePatch":
        return raw.apply({**thing, "kind": "Node"}, **STRICT)
    if thing["kind"] == "Namespace":  # it is there, for others to be checked in
        return raw.apply(thing, force="true", **STRICT)
    return raw.create(thing, **STRICT)


@pytest.mark.usefixtures("raw")
def test_the_program_sees_which_apis_a_cluster_has(cluster):
    asked = ProviderCluster({"kubernetes:kubeconfig": str(cluster.kubeconfig)})
    assert asked.serves("monitoring.coreos.com/v1")
    assert not asked.serves("none.example.com/v1")


@pytest.mark.parametrize("stack", EXAMPLES, indirect=True)
def test_the_server_takes_every_object_as_it_is(raw, stack):
    """No unknown field, no value that its kind forbids."""
    told = refused(raw, stack.objects())
    assert not told, "\n".join(told)


def templates(group):
    """Yield the pods of a LeaderWorkerSet as PodTemplates: its own schema says nothing of them."""
    named = {"name": group["metadata"]["name"], "namespace": group["metadata"]["namespace"]}
    for name in ("leaderTemplate", "workerTemplate"):
        template = group["spec"]["leaderWorkerTemplate"][name]
        yield {"apiVersion": "v1", "kind": "PodTemplate", "metadata": named, "template": template}


@pytest.mark.parametrize("values", STACKS, ids=lambda values: next(iter(values["tercet:services"])))
def test_the_server_takes_what_docs_stack_md_shows(raw, values):
    """Scalers, groups of pods, ways in, monitors: the objects that other people's controllers act on."""
    args = stack_args(parse_config(pulumi_values(values), "example"), ROOT, ACCELERATORS)
    raw.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": args.namespace}})
    things = list(args.objects())
    groups = [thing for thing in things if thing["kind"] == "LeaderWorkerSet"]
    told = refused(raw, [*things, *(template for group in groups for template in templates(group))])
    assert not told, "\n".join(told)


def test_the_server_takes_every_object_of_a_federation(raw):
    things = federation_objects_of(FEDERATION)
    namespace = next(thing for thing in things if thing["kind"] == "Namespace")
    raw.create(namespace)
    assert not refused(raw, things)


@pytest.mark.parametrize(
    ("version", "kind"), [("scheduling.k8s.io/v1", "PriorityClass"), ("karpenter.sh/v1", "NodePool")]
)
def test_an_unknown_field_is_named(raw, version, kind):
    """What the test above leans on, of Kubernetes' own kinds and of those that are defined here."""
    thing = {"apiVersion": version, "kind": kind, "metadata": {"name": "odd"}, "spc": {}}
    assert 'unknown field "spc"' in raw.create(thing, **STRICT).json()["message"]
