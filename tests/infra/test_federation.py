"""Several stacks under one controller: what a member has, what the second program makes of them."""

import itertools
from pathlib import Path

import pulumi
import pytest
from pulumi.runtime import Mocks

from cli.members import members_of
from infra import program
from infra.config import ConfigError
from infra.federation import program as second
from infra.federation.config import facts_of, federation_args, parse_federation
from infra.objects import controller
from infra.objects.federation import NAME, federation_objects, federation_spec, member_output
from orchestrator.control_policy import Hardware, load_control_policy
from orchestrator.kube_names import GATE, POLICY_FILE, STAGE
from tests.infra.kit import ROOT, config_of, expanded, named, pulumi_values, stack_of
from tests.infra.reach import Pod, may_connect
from tests.infra.test_components import declared

SERVICE, POLICY = "internvl-26b", Path("policies/internvl-26b.yaml")
HARDWARE = Hardware.load()
MEMBERS = {
    "east": {"stack": "organization/tercet/east", "secret": "east"},
    "west": {"stack": "organization/tercet/west", "secret": "west", "redis_port": 6380},
}
VALUES = {"members": MEMBERS, "services": {SERVICE: str(POLICY)}}
OUTPUTS = {
    "east": {"namespace": "tercet", "services": [SERVICE], "shards": 1, "tls": True, "karpenter": False},
    "west": {"namespace": "llm", "services": [SERVICE], "shards": 2, "tls": False, "karpenter": True},
}


def config_with(**values):
    given = {f"tercet-federation:{key}": value for key, value in (VALUES | values).items()}
    return parse_federation(pulumi_values(given), "test")


def args_with(**values):
    return federation_args(config_with(**values), ROOT, HARDWARE)


ARGS = args_with()


def objects(outputs=OUTPUTS):
    return federation_objects(ARGS, federation_spec(ARGS, facts_of(outputs, ARGS)))


def container(outputs=OUTPUTS):
    return named(objects(outputs), "Deployment")["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        pytest.param(
            {"memebers": {}}, "`tercet-federation:memebers`: unknown key; did you mean `members`", id="key"
        ),
        pytest.param({"members": {"east": MEMBERS["east"]}}, "`tercet-federation:members`", id="one"),
        pytest.param({"services": {}}, "`tercet-federation:services`", id="no-service"),
        pytest.param(
            {"members": {**MEMBERS, "west": MEMBERS["west"] | {"stack": MEMBERS["east"]["stack"]}}},
            "`tercet-federation:members.west.stack`: is the stack of east too",
            id="stack-twice",
        ),
        pytest.param(
            {"members": {**MEMBERS, "a:b": MEMBERS["west"]}}, "`tercet-federation:members.a:b", id="name"
        ),
        pytest.param({"services": {"tiny": "policies/no.yaml"}}, "no.yaml", id="file"),
        pytest.param({"services": {"other": str(POLICY)}}, f"the policy is of `{SERVICE}`", id="service"),
        pytest.param(
            {"services": {SERVICE: str(POLICY), "small-replicas": "policies/examples/small-replicas.yaml"}},
            "services of one controller share topology.levels",
            id="levels",
        ),
    ],
)
def test_what_a_configuration_cannot_mean_is_refused(values, told):
    with pytest.raises(ConfigError) as refused:
        args_with(**values)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("west", "told"),
    [
        pytest.param(None, "organization/tercet/west is no member of a federation: set", id="no-member"),
        pytest.param({"namespace": "llm"}, "organization/tercet/west is of another version", id="version"),
        pytest.param(
            OUTPUTS["west"] | {"services": ["tiny"]},
            "`tercet-federation:members.west`: has no internvl-26b to be scaled\n"
            "`tercet-federation:services`: nobody scales tiny of west",
            id="services",
        ),
    ],
)
def test_a_stack_that_does_not_suit_is_named_with_what_to_do(west, told):
    with pytest.raises(ConfigError) as refused:
        facts_of({**OUTPUTS, "west": west}, ARGS)
    assert told in str(refused.value)


def member(**stack):
    return stack_of(POLICY, {"controller": "federation", **stack})


def test_a_member_has_gated_pools_and_an_account_for_a_controller_that_runs_elsewhere():
    """Otherwise it is the stack that it would be alone."""
    things, alone = list(member().objects()), list(stack_of(POLICY).objects())
    gone = {(t["kind"], t["metadata"]["name"]) for t in alone}
    gone -= {(t["kind"], t["metadata"]["name"]) for t in things}
    assert gone == {("Deployment", controller.NAME), ("NetworkPolicy", "controller")}
    assert len(things) == len(alone) - 2
    pools = [t for t in things if t["kind"] == "Deployment" and STAGE in t["metadata"]["labels"]]
    assert pools
    for pool in pools:
        assert pool["spec"]["replicas"] == 0
        assert pool["spec"]["template"]["spec"]["schedulingGates"] == [{"name": GATE}]
    (_, account) = [t for t in things if t["kind"] == "ServiceAccount"]
    assert account["metadata"]["name"] == controller.NAME
    # All members are asked alike what Karpenter could make, also one that has none.
    rules = named(things, "ClusterRole")["rules"]
    assert rules == controller.CLUSTER_RULES + controller.KARPENTER_RULES


def test_a_member_without_a_service_to_be_scaled_is_refused():
    with pytest.raises(ConfigError, match="`tercet:controller`: no service has autoscaler tercet"):
        config_of(
            services={"tiny": {"policy": "policies/tiny.yaml", "autoscaler": "none"}}, controller="federation"
        )


def test_a_member_says_of_itself_what_the_second_program_reads():
    broker = {"shards": 2, "tls_secret": "redis-tls"}
    output = member_output(member(broker=broker, namespace="llm").controller)
    assert output == OUTPUTS["west"] | {"tls": True, "karpenter": False}
    facts_of({"east": output, "west": output}, ARGS)


def test_what_its_pod_is_told_is_what_the_controller_takes(tmp_path):
    """Shards in order, each from its own key of the member's Secret, and no URL in any object."""
    told = container()
    keys = {each["name"]: each["valueFrom"]["secretKeyRef"] for each in told["env"] if "valueFrom" in each}
    known = {name: f"redis://{key['name']}/{key['key']}" for name, key in keys.items()}
    flags = [flag.replace("/etc/tercet/members", str(tmp_path)) for flag in told["args"]]
    for name in MEMBERS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "kubeconfig").write_text("")
    given = {
        key: [f.partition("=")[2] for f in flags if f.startswith(f"--{key}=")]
        for key in ("cluster", "namespace")
    }
    urls = expanded(told, "TERCET_REDIS_URL", known).split()
    east, west = members_of(given["cluster"], urls, given["namespace"], None)
    assert (east.namespace, west.namespace) == ("tercet", "llm")
    assert east.redis_urls == ("redis://east/url",)
    assert west.redis_urls == ("redis://west/url-0", "redis://west/url-1")
    assert "--published" not in told["args"]


def test_it_asks_for_what_karpenter_could_make_if_any_member_has_it():
    assert "--karpenter" in container()["args"]
    without = {name: each | {"karpenter": False} for name, each in OUTPUTS.items()}
    assert "--karpenter" not in container(without)["args"]


def test_its_pod_has_no_rights_where_it_runs_and_of_the_secrets_what_it_needs():
    pod = named(objects(), "Deployment")["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in pod
    assert not [t for t in objects() if t["kind"] in ("ServiceAccount", "Role", "ClusterRole")]
    files = {
        mount["mountPath"]: [item["key"] for item in volume["secret"]["items"]]
        for volume in pod["volumes"]
        for mount in pod["containers"][0]["volumeMounts"]
        if "secret" in volume and mount["name"] == volume["name"]
    }
    assert files == {
        "/etc/tercet/members/east": ["kubeconfig", "ca.crt"],
        "/etc/tercet/members/west": ["kubeconfig"],
    }
    assert named(objects(), "Deployment")["spec"]["strategy"] == {"type": "Recreate"}


def test_the_policy_that_it_reads_is_the_policy(tmp_path):
    for name, text in named(objects(), "ConfigMap")["data"].items():
        (tmp_path / name).write_text(text)
    read, meant = (load_control_policy(file, HARDWARE) for file in (tmp_path / POLICY_FILE, ROOT / POLICY))
    assert read == meant


OUTSIDE = "198.51.100.0/24"
LISTENERS = (6379, 6380, 443, 6443, 8080, 9090, 7070)


def cluster_pods(stack):
    for number, each in enumerate(t for t in stack if t["kind"] in ("Deployment", "StatefulSet")):
        labels, inside = each["spec"]["template"]["metadata"]["labels"], each["metadata"]["namespace"]
        name = each["metadata"]["name"]
        yield name, Pod(address=f"10.0.0.{number + 1}", namespace=inside, labels=labels)


def test_exactly_the_edges_of_a_federation_are_open():
    """Its controller beside a member, and who looks like it, at every port that somebody listens at."""
    things = [*member(broker={"outside": [OUTSIDE]}).objects(), *objects()]
    policies = [each for each in things if each["kind"] == "NetworkPolicy"]
    ours = dict(cluster_pods(things))
    others = {
        "home": Pod(address="198.51.100.7"),
        "stranger": Pod(address="203.0.113.7"),
        "namesake": Pod(
            address="10.9.0.1", namespace="x", labels={"app.kubernetes.io/component": "controller"}
        ),
    }
    found = {
        (source, target, port)
        for source, target in itertools.permutations(ours | others, 2)
        for port in LISTENERS
        if {source, target} & {NAME, "redis"}
        and may_connect(policies, (ours | others)[source], (ours | others)[target], port)
    }
    stages = {name for name in ours if name.startswith("internvl") and "gateway" not in name}
    clients = {*stages, f"{SERVICE}-gateway", "tercet-publisher", "home", NAME}
    wanted = {(client, "redis", 6379) for client in clients}
    # Whoever scrapes may; where Redis and API servers of other clusters are, Secrets alone say.
    wanted |= {(other, NAME, 9090) for other in others}
    wanted |= {(NAME, other, port) for other in others for port in (6379, 6380, 443, 6443)}
    assert found == wanted


@pytest.mark.parametrize(
    ("broker", "told"),
    [
        pytest.param(
            {"outside": ["10.0.0.1/8"]}, "`tercet:broker.outside.0`: 10.0.0.1/8 has host bits", id="bits"
        ),
        pytest.param({"outside": ["here"]}, "`tercet:broker.outside.0`", id="word"),
        pytest.param(
            {"outside": ["10.0.0.0/8"], "external_port": 6379}, "not for the stack to say", id="external"
        ),
    ],
)
def test_networks_that_cannot_be_let_in_are_refused(broker, told):
    with pytest.raises(ConfigError) as refused:
        member(broker=broker)
    assert told in str(refused.value)


class References(Mocks):
    """An engine that knows the outputs of stacks."""

    def __init__(self, outputs):
        self._outputs = outputs
        self.asked = set()

    def new_resource(self, args):
        if args.typ == "pulumi:pulumi:StackReference":
            self.asked.add(args.inputs["name"])
            found = self._outputs[args.inputs["name"].rpartition("/")[2]]
            outputs = {} if found is None else {"member": found}
            return args.name, {"name": args.inputs["name"], "outputs": outputs, "secretOutputNames": []}
        return args.name, args.inputs

    def call(self, args):
        return {}


def test_pulumi_joins_the_outputs_of_the_stacks():
    """Each by its reference; what they say is in the Deployment alone."""
    references = References(OUTPUTS)
    found = declared(lambda: second.declare(ARGS), references)
    assert references.asked == {each["stack"] for each in MEMBERS.values()}
    deployment = found["kubernetes:apps/v1:Deployment", f"{ARGS.namespace}/{NAME}"].object
    (told,) = deployment["spec"]["template"]["spec"]["containers"]
    assert list(told["args"]) == container()["args"]
    made = [request for request in found.values() if request.type.startswith("kubernetes:")]
    assert len(made) == len(objects())
    assert all("tercet:infra:Federation" in request.parent for request in made)


def test_a_stack_that_is_no_member_ends_the_run_with_its_message():
    with pytest.raises(pulumi.RunError, match="west is no member of a federation"):
        declared(lambda: second.declare(ARGS), References({**OUTPUTS, "west": None}))


def test_a_wrong_configuration_ends_the_run_with_its_message(monkeypatch):
    monkeypatch.setattr(second, "get_config_env", lambda: {"tercet-federation:memebers": "{}"})
    with pytest.raises(pulumi.RunError, match="did you mean `members`"):
        declared(second.main)


def test_only_a_member_has_the_output(monkeypatch):
    exported = {}
    monkeypatch.setattr(pulumi, "export", exported.__setitem__)
    declared(lambda: program.declare(member()))
    assert exported["member"] == OUTPUTS["east"] | {"tls": False}
    exported.clear()
    declared(lambda: program.declare(stack_of(POLICY)))
    assert "member" not in exported
