"""What the processes of a stack may ask of the API server: what they need, and nothing else."""

import itertools
from dataclasses import replace

import pytest

from infra.objects import controller, publisher
from infra.objects.names import object_name
from infra.stack import stack_args
from orchestrator.kube_names import STAGE
from tests.cluster.conftest import until
from tests.cluster.raw import Raw, define, token_of
from tests.infra.kit import ACCELERATORS, ROOT, example
from tests.infra.test_federation import objects as federation

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

OURS, BOUGHT, MEMBER, OTHER = "tercet", "bought", "member", "default"
ACCOUNTS = ("Namespace", "PriorityClass", "ServiceAccount", "Role", "RoleBinding", "ClusterRole")
ALSO = ("impersonate", "bind", "escalate", "deletecollection")
EVERYONE = {
    ("", "create", f"{resource}.{group}.k8s.io")
    for group, resources in {
        "authorization": ("selfsubjectaccessreviews", "selfsubjectrulesreviews"),
        "authentication": ("selfsubjectreviews",),
    }.items()
    for resource in resources
}
"""Whoever has a token may ask who he is and what he may do."""

CONTROLLER = {
    (OURS, "list", "deployments.apps"),
    (OURS, "get", "pods"),
    (OURS, "list", "pods"),
    (OURS, "patch", "pods"),
    (OTHER, "list", "pods"),
    ("", "list", "nodes"),
}


@pytest.fixture(scope="module")
def stack():
    return stack_args(example("simulated"), ROOT, ACCELERATORS)


@pytest.fixture(scope="module")
def raw(cluster, core, stack):
    """The administrator, of a cluster with Karpenter's kinds and the accounts and roles of three stacks."""
    bought = replace(example("eks-karpenter"), namespace=BOUGHT)
    member = replace(example("simulated"), namespace=MEMBER, controller="federation")
    others = [stack_args(each, ROOT, ACCELERATORS).objects() for each in (bought, member)]
    with Raw(cluster) as raw:
        for file in sorted((ROOT / "tests/cluster/crds").glob("karpenter*")):
            define(raw, file)
        for thing in itertools.chain(stack.objects(), *others):
            if thing["kind"] in (*ACCOUNTS, "ClusterRoleBinding"):
                answer = raw.create(thing)
                assert answer.is_success, answer.text
        for each in (OURS, BOUGHT, MEMBER):
            until(lambda each=each: len(core.list_namespaced_service_account(each).items) == 3)
        yield raw


def resources(raw):
    """Yield group, resource and verbs of everything that the server serves, subresources too."""
    groups = [each["preferredVersion"]["groupVersion"] for each in raw.get("/apis").json()["groups"]]
    for root in ("/api/v1", *(f"/apis/{version}" for version in groups)):
        group = root.split("/")[2] if root.startswith("/apis/") else ""
        for each in raw.get(root).json()["resources"]:
            yield group, each["name"], each["namespaced"], each["verbs"]


def allowed(asker, raw, namespace):
    """Ask for every verb on every resource: in its own namespace, called ours, in another, in the cluster."""
    found = set()
    for group, name, namespaced, verbs in resources(raw):
        resource, _, subresource = name.partition("/")
        scopes = (OURS, OTHER) if namespaced else ("",)
        for scope, verb in itertools.product(scopes, {*verbs, *ALSO}):
            attributes = {"group": group, "resource": resource, "subresource": subresource, "verb": verb}
            if may(asker, attributes | {"namespace": namespace if scope == OURS else scope}):
                found.add((scope, verb, f"{name}.{group}".rstrip(".")))
    return found


def may(asker, attributes):
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer = asker.create(body)
    assert answer.is_success, answer.text
    return answer.json()["status"]["allowed"]


@pytest.mark.parametrize(
    ("namespace", "account", "named"),
    [
        pytest.param(OURS, controller.NAME, CONTROLLER, id="controller"),
        pytest.param(
            BOUGHT,
            controller.NAME,
            CONTROLLER | {("", "list", "nodepools.karpenter.sh")},
            id="controller-with-karpenter",
        ),
        pytest.param(
            MEMBER,
            controller.NAME,
            CONTROLLER | {("", "list", "nodepools.karpenter.sh")},
            id="controller-of-a-federation",
        ),
        pytest.param(OURS, publisher.NAME, set(), id="publisher"),  # but what the next test names
        pytest.param(OURS, "default", set(), id="gateways-and-workers"),
    ],
)
def test_an_account_may_do_what_is_named_and_nothing_else(cluster, core, raw, namespace, account, named):
    """Not secrets, not exec, no deleting, no other namespace's objects: whatever the server has."""
    with Raw(cluster, token_of(core, account, namespace)) as asker:
        assert allowed(asker, raw, namespace) == named | EVERYONE


def test_the_controller_scales_the_pools_of_the_stack_alone(cluster, core, raw, stack):
    """By name: no gateway, no publisher, not itself."""
    deployments = [each for each in stack.objects() if each["kind"] == "Deployment"]
    about = {"group": "apps", "resource": "deployments", "subresource": "scale", "namespace": OURS}
    with Raw(cluster, token_of(core, controller.NAME, OURS)) as asker:
        found = {
            (name, verb)
            for name in (each["metadata"]["name"] for each in deployments)
            for verb in ("get", "update", "patch")
            if may(asker, about | {"name": name, "verb": verb})
        }
    pools = {each["metadata"]["name"] for each in deployments if STAGE in each["metadata"]["labels"]}
    assert found == {(name, "patch") for name in pools}


def test_the_publisher_reads_the_policies_of_the_stack_alone(cluster, core, raw):
    """By name, so no other ConfigMap of the namespace."""
    names = (object_name("internvl-26b", "policy"), "other")
    with Raw(cluster, token_of(core, publisher.NAME, OURS)) as asker:
        about = {"group": "", "resource": "configmaps", "namespace": OURS}
        found = {
            (name, verb): may(asker, about | {"name": name, "verb": verb})
            for name in names
            for verb in ("get", "list", "watch", "update", "patch", "delete")
        }
    assert [pair for pair, allowed in found.items() if allowed] == [(names[0], "get")]


def test_only_controller_and_publisher_get_a_token(raw, stack):
    """Seen in what the server makes of each workload's pod. A federation's controller has those of others."""
    mounted = set()
    for thing in (*stack.objects(), *federation()):
        if thing["kind"] in ("Deployment", "StatefulSet"):
            template = thing["spec"]["template"]
            name = thing["metadata"]["name"]
            about = {**template["metadata"], "name": name, "namespace": OURS}
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": template["spec"]}
            answer = raw.create(pod, dryRun="All")
            assert answer.is_success, answer.text
            if any("projected" in volume for volume in answer.json()["spec"]["volumes"]):
                mounted.add(name)
    assert mounted == {controller.NAME, publisher.NAME}
