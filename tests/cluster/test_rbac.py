"""What the processes of a stack may ask of the API server: what they need, and nothing else."""

import itertools

import pytest

from infra.objects import controller, publisher
from infra.objects.names import object_name
from infra.stack import stack_args
from tests.cluster.conftest import until
from tests.cluster.raw import Raw, token_of
from tests.infra.kit import ACCELERATORS, ROOT, example

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

OURS, OTHER = "tercet", "default"
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


@pytest.fixture(scope="module")
def stack():
    return stack_args(example("simulated"), ROOT, ACCELERATORS)


@pytest.fixture(scope="module")
def raw(cluster, core, stack):
    """The administrator's client, to a cluster with the accounts and roles of a stack."""
    with Raw(cluster) as raw:
        for thing in stack.objects():
            if thing["kind"] in (*ACCOUNTS, "ClusterRoleBinding"):
                answer = raw.create(thing)
                assert answer.is_success, answer.text
        until(lambda: len(core.list_namespaced_service_account(OURS).items) == 3)
        yield raw


def resources(raw):
    """Yield group, resource and verbs of everything that the server serves, subresources too."""
    groups = [each["preferredVersion"]["groupVersion"] for each in raw.get("/apis").json()["groups"]]
    for root in ("/api/v1", *(f"/apis/{version}" for version in groups)):
        group = root.split("/")[2] if root.startswith("/apis/") else ""
        for each in raw.get(root).json()["resources"]:
            yield group, each["name"], each["namespaced"], each["verbs"]


def allowed(asker, raw):
    """Ask for every verb on every resource: in our namespace, in another, in the cluster."""
    found = set()
    for group, name, namespaced, verbs in resources(raw):
        resource, _, subresource = name.partition("/")
        scopes = (OURS, OTHER) if namespaced else ("",)
        for scope, verb in itertools.product(scopes, {*verbs, *ALSO}):
            attributes = {"group": group, "resource": resource, "subresource": subresource, "verb": verb}
            if may(asker, attributes | {"namespace": scope}):
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
    ("account", "named"),
    [
        pytest.param(
            controller.NAME,
            {
                (OURS, "list", "deployments.apps"),
                (OURS, "patch", "deployments/scale.apps"),
                (OURS, "get", "pods"),
                (OURS, "list", "pods"),
                (OURS, "patch", "pods"),
                (OTHER, "list", "pods"),
                ("", "list", "nodes"),
            },
            id="controller",
        ),
        pytest.param(publisher.NAME, set(), id="publisher"),  # but what the next test names
        pytest.param("default", set(), id="gateways-and-workers"),
    ],
)
def test_an_account_may_do_what_is_named_and_nothing_else(cluster, core, raw, account, named):
    """Not secrets, not exec, no deleting, no other namespace's objects: whatever the server has."""
    with Raw(cluster, token_of(core, account, OURS)) as asker:
        assert allowed(asker, raw) == named | EVERYONE


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
    """Seen in what the server makes of each workload's pod."""
    mounted = set()
    for thing in stack.objects():
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
