"""Objects of every policy in the repository, without Pulumi."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.config import ConfigError, ImagesConfig
from infra.node_config import Spread
from infra.objects import controller, publisher
from infra.objects.engines import engine_container
from infra.objects.names import CollisionError, check_collisions, metadata, object_name
from infra.objects.nodes import domains, node_objects
from infra.stack import stack_args
from orchestrator.adapters.kube import pool_of
from orchestrator.control_policy import Hardware, load_control_policy
from orchestrator.core.pools import Pool
from orchestrator.kube_names import ACCELERATOR_RESOURCE, DOMAIN, GATE, HARDWARE, MOVABLE, STAGE
from orchestrator.policy import classify, load_policy
from orchestrator.serve import read_config as read_gateway
from stages.types import Stage
from tests.infra.kit import (
    ACCELERATORS,
    ELSEWHERE,
    POLICIES,
    ROOT,
    config_of,
    example,
    expanded,
    named,
    stack_of,
)
from workers.config import read_config

KNOWN = {"POD_NAME": "pod-1", "POD_IP": "10.0.0.7", "REDIS_PASSWORD": "sesame", "BLOB_TOKEN": "open"}
SGLANG = Path("policies/examples/sglang-pd.yaml")
ROLES = Path("policies/examples/sglang-roles.yaml")
ROLLOUT = {"MODEL": '"tiny"', "SLOTS": "16", "HARDWARE": '"cpu"', "DOMAIN": "[]"}
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
each_policy = pytest.mark.parametrize("file", POLICIES, ids=str)


def deployments(stack):
    return [thing for thing in stack.objects() if thing["kind"] == "Deployment"]


def pools(stack):
    return [each for each in deployments(stack) if "schedulingGates" in each["spec"]["template"]["spec"]]


@each_policy
def test_names_are_within_limits_and_nobody_is_named_twice(file):
    """`stack_of` itself refuses collisions."""
    for thing in stack_of(file).objects():
        assert LABEL.fullmatch(thing["metadata"]["name"])
        labels = thing["metadata"].get("labels", {})
        assert all(len(value) <= 63 for value in labels.values())


@each_policy
def test_each_stage_and_hardware_class_has_a_gated_pool_of_none(file):
    """What the controller reads of a pool is what the policy says."""
    policy = load_policy(ROOT / file)
    found = {pool_of(each): each["spec"] for each in pools(stack_of(file))}
    assert set(found) == {
        Pool(policy.service, stage, hardware)
        for stage in policy.used_stages
        for hardware in policy.stages[stage].hardware
    }
    for spec in found.values():
        assert spec["replicas"] == 0
        assert spec["template"]["spec"]["schedulingGates"] == [{"name": GATE}]
        assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()


@each_policy
def test_a_replica_asks_for_as_many_accelerators_as_it_spans(file):
    """Once in a pod, whichever container computes."""
    policy = load_policy(ROOT / file)
    for each in pools(stack_of(file)):
        pool = pool_of(each)
        containers = each["spec"]["template"]["spec"]["containers"]
        asked = [c["resources"].get("limits", {}).get(ACCELERATOR_RESOURCE) for c in containers]
        wanted = None if pool.hardware == "cpu" else str(policy.stages[pool.stage].tp)
        assert [each for each in asked if each] == ([wanted] if wanted else [])


@pytest.mark.parametrize(
    ("file", "least_mib"), [("internvl-26b", 8192), ("tiny", 1024), ("noop", 1024)], ids=str
)
def test_a_replica_asks_for_the_host_s_memory_that_its_weights_pass_through(file, least_mib):
    """Of a model without a profile nothing is known."""
    policy = ROOT / f"policies/{file}.yaml"
    weights = {} if file == "noop" else load_control_policy(policy, Hardware.load()).profile.weights_bytes
    for each in pools(stack_of(policy, autoscaler="tercet")):
        containers = each["spec"]["template"]["spec"]["containers"]
        mib = int(containers[-1]["resources"]["requests"]["memory"].removesuffix("Mi"))
        assert 0 <= mib - least_mib - weights.get(pool_of(each).stage, 0) / 2**20 < 1


@each_policy
def test_only_what_computes_on_accelerators_may_go_to_nodes_that_have_them(file):
    """Karpenter would buy some for whatever tolerates their taint."""
    for each in pools(stack_of(file)):
        tolerated = bool(each["spec"]["template"]["spec"]["tolerations"])
        assert tolerated == (pool_of(each).hardware != "cpu")


@each_policy
def test_workers_and_gateways_can_read_what_they_are_told(file):
    """The very classes that the processes parse their environment with."""
    policy, stack = load_policy(ROOT / file), stack_of(file)
    for each in pools(stack):
        pool, template = pool_of(each), each["spec"]["template"]["spec"]
        worker = template["containers"][0]
        model = next(entry for entry in worker["env"] if entry["name"] == "MODEL")
        rollout = model["valueFrom"]["configMapKeyRef"]["name"]
        chosen = named(stack.objects(), "ConfigMap", rollout)["data"]
        nowhere = {"DOMAIN": each["spec"]["template"]["metadata"]["annotations"][DOMAIN]}
        config = read_config(expanded(worker, "TERCET_WORKER", KNOWN | chosen | nowhere))
        assert config.domain == ()
        placed = expanded(worker, "TERCET_WORKER", KNOWN | chosen | {"DOMAIN": '["zone-a", "rack-1"]'})
        assert read_config(placed).domain == ("zone-a", "rack-1")
        assert (config.name, config.stage, config.model) == ("pod-1", pool.stage, policy.model.name)
        assert (config.slots, config.hardware) == (policy.stages[pool.stage].batch, pool.hardware)
        assert config.redis_url == "redis://:sesame@redis:6379/0"
        assert config.blobs.settings().public_url == "http://10.0.0.7:7070"
        if policy.served:
            engine = template["containers"][1]["ports"][0]["containerPort"]
            assert config.server
            assert (config.server.url, config.server.model) == (f"http://127.0.0.1:{engine}", config.model)
            assert config.modalities == policy.model.modalities
        assert (config.server is None) == (not policy.served)
        assert config.grace_s == policy.stages[pool.stage].drain_s < template["terminationGracePeriodSeconds"]
    gateway = named(stack.objects(), "Deployment", object_name(policy.service, "gateway"))
    text = expanded(gateway["spec"]["template"]["spec"]["containers"][0], "TERCET_GATEWAY", KNOWN)
    assert re.fullmatch(r"pod-1\.[0-9a-f]+", read_gateway(text).gateway_id)


@each_policy
def test_the_published_policy_is_the_policy_without_its_demand(file, tmp_path):
    stack = stack_of(file)
    data = named(stack.objects(), "ConfigMap", object_name(stack.services[0].policy.service, "policy"))[
        "data"
    ]
    for name, text in data.items():
        (tmp_path / name).write_text(text)
    published = load_policy(tmp_path / "policy.yaml")
    differing = {change.path for change in classify(load_policy(ROOT / file), published)}
    assert differing <= {"demand.trace", "model.profile"}


@each_policy
def test_pods_are_restricted(file):
    """As the Pod Security Standard `restricted` asks, and with a token for the controller only."""
    stack = stack_of(file)
    for each in stack.objects():
        if each["kind"] not in ("Deployment", "StatefulSet"):
            continue
        pod = each["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod.get("automountServiceAccountToken", True) == ("serviceAccountName" in pod)
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_without_an_autoscaler_pools_have_their_least_and_no_gate():
    """The best class of a stage has all of them; nobody controls."""
    stack = stack_of(POLICIES[-1], autoscaler="none")
    assert not pools(stack)
    assert stack.controller is None
    assert sum(each["spec"]["replicas"] for each in deployments(stack)) == 3 + 2  # and gateway and publisher


@pytest.mark.parametrize(
    ("edit", "touched"),
    [
        pytest.param(("queue_s: 10", "queue_s: 20"), {"ConfigMap tiny-policy"}, id="live"),
        pytest.param(
            ("[cpu], batch: 32", "[cpu], batch: 16"),
            {"ConfigMap tiny-policy", "ConfigMap tiny-decode-cpu", "Deployment tiny-decode-cpu"},
            id="rollout",
        ),
        pytest.param(
            ("[cpu], batch: 32", "[cpu], batch: 32, drain_s: 90"),
            {"ConfigMap tiny-policy", "Deployment tiny-decode-cpu"},
            id="drain",
        ),
    ],
)
def test_an_edit_changes_only_what_it_must(tmp_path, edit, touched):
    """A live field changes one ConfigMap; a rollout field the pods of its stage besides."""
    text = (ROOT / "policies/tiny.yaml").read_text()
    stacks = []
    for name, content in (("a.yaml", text), ("b.yaml", text.replace(*edit))):
        (tmp_path / name).write_text(content)
        config = config_of(services={"tiny": {"policy": str(tmp_path / name)}})
        stacks.append(
            {json.dumps(thing): thing for thing in stack_args(config, ROOT, ACCELERATORS).objects()}
        )
    changed = [thing for text, thing in stacks[1].items() if text not in stacks[0]]
    named_so = {f"{t['kind']} {re.sub('-[0-9a-f]{10}$', '', t['metadata']['name'])}" for t in changed}
    assert named_so == touched


parts = st.lists(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True), min_size=2, max_size=3)


@given(parts, parts)
def test_different_parts_never_give_the_same_name(first, second):
    assert (object_name(*first) == object_name(*second)) == (first == second)
    assert LABEL.fullmatch(object_name(*first))
    assert len(object_name(*first)) <= 52


def test_two_objects_of_one_name_are_refused():
    thing = {"apiVersion": "v1", "kind": "Node", "metadata": metadata("a")}
    with pytest.raises(CollisionError, match="Node a"):
        check_collisions([thing, thing])


@given(st.integers(1, 60), st.integers(1, 3), st.integers(1, 4))
def test_nodes_are_spread_evenly_over_domains(nodes, zones, racks):
    """No domain has two nodes more than another, and a rack lies in one zone."""
    labels = domains(nodes, (Spread(level="zone", domains=zones), Spread(level="rack", domains=racks)))
    counts = [sum(each["rack"] == rack for each in labels) for rack in {each["rack"] for each in labels}]
    assert len(labels) == nodes
    assert max(counts) - min(counts) <= 1
    assert all(each["rack"].startswith(f"{each['zone']}-") for each in labels)


@pytest.mark.parametrize(
    ("backend", "kinds"),
    [
        pytest.param({"simulated": {"nodes": 2}}, ["Node", "Node"], id="simulated"),
        pytest.param({"labels": {"nodes": ["a", "b"]}}, ["NodePatch", "NodePatch"], id="labels"),
        pytest.param(
            {
                "karpenter": {
                    "instance_types": ["p5.48xlarge"],
                    "max_accelerators": 64,
                    "role": "nodes",
                    "discovery": "mine",
                }
            },
            ["EC2NodeClass", "NodePool"],
            id="karpenter",
        ),
    ],
)
def test_every_backend_labels_its_nodes_with_the_hardware_class(backend, kinds):
    """One interface: pods find nodes of any backend by the same label."""
    config = config_of(
        services={"tiny": {"policy": "policies/tiny.yaml"}},
        node_pools={"big": {"hardware": "h100", **backend}},
    )
    objects = node_objects(stack_args(config, ROOT, ACCELERATORS).node_pools[0])
    assert [each["kind"] for each in objects] == kinds
    last = objects[-1]
    holder = last["spec"]["template"] if last["kind"] == "NodePool" else last
    assert holder["metadata"]["labels"][HARDWARE] == "h100"


def rules_of(account):
    """Return kind of role, resource and verb of what an account of a stack may do."""
    return {
        (t["kind"], resource, verb)
        for t in stack_of(POLICIES[-1]).objects()
        if t["kind"] in ("Role", "ClusterRole") and t["metadata"]["name"].endswith(account)
        for rule in t["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_publisher_may_read_the_policies_of_its_services_and_nothing_else():
    stack = stack_of(POLICIES[-1])
    assert rules_of(publisher.NAME) == {("Role", "configmaps", "get")}
    (rule,) = named(stack.objects(), "Role", publisher.NAME)["rules"]
    assert rule["resourceNames"] == [object_name(stack.services[0].policy.service, "policy")]


def test_the_controller_may_do_what_its_adapter_does_and_nothing_more():
    """The calls of `KubeCluster`, verb by verb."""
    assert rules_of(controller.NAME) == {
        ("Role", "deployments", "list"),
        ("Role", "deployments/scale", "patch"),
        ("Role", "pods", "get"),
        ("Role", "pods", "list"),
        ("Role", "pods", "patch"),
        ("ClusterRole", "nodes", "list"),
        ("ClusterRole", "pods", "list"),
    }


def test_the_controller_may_scale_the_pools_of_its_services_and_nothing_else():
    """By name: no gateway, not itself, no pool of a service that is not its to scale."""
    fixed = {"tiny": {"policy": "policies/tiny.yaml", "autoscaler": "none"}}
    config = config_of(services={"internvl-26b": {"policy": "policies/internvl-26b.yaml"}} | fixed)
    stack = stack_args(config, ROOT, ACCELERATORS)
    rules = named(stack.objects(), "Role", controller.NAME)["rules"]
    (rule,) = (each for each in rules if each["resources"] == ["deployments/scale"])
    assert sorted(rule["resourceNames"]) == sorted(each["metadata"]["name"] for each in pools(stack))


def test_the_controller_orders_nodes_only_where_karpenter_makes_some():
    """It is told to, and may then list NodePools."""
    args = stack_args(example("eks-karpenter"), ROOT, ACCELERATORS)
    things = list(args.objects())
    rules = named(things, "ClusterRole")["rules"]
    assert {"apiGroups": ["karpenter.sh"], "resources": ["nodepools"], "verbs": ["list"]} in rules
    (container,) = named(things, "Deployment", controller.NAME)["spec"]["template"]["spec"]["containers"]
    assert "--karpenter" in container["args"]
    plain = named(stack_of(POLICIES[-1]).objects(), "Deployment", controller.NAME)["spec"]["template"]["spec"]
    assert "--karpenter" not in plain["containers"][0]["args"]


def test_a_pod_that_is_placed_is_not_spread_besides():
    """Karpenter would take the wish for a demand, and make a node for each pod."""
    found = [deployments(stack_of(POLICIES[-1], autoscaler=by)) for by in ("tercet", "none")]
    placed, free = (next(t for t in each if STAGE in t["metadata"]["labels"]) for each in found)
    specs = [each["spec"]["template"]["spec"] for each in (placed, free)]
    assert ["topologySpreadConstraints" in each for each in specs] == [False, True]
    assert ["podAffinity" in each["affinity"] for each in specs] == [False, True]
    assert ["schedulingGates" in each for each in specs] == [True, False]


def test_an_engine_server_loads_the_weights_under_the_models_name_with_the_policys_flags():
    policy = load_policy(ROOT / "policies" / "internvl-26b.yaml")
    encode = replace(policy.stages.encode, flags=("--enforce-eager", "--seed=0"))
    policy = replace(
        policy,
        model=replace(policy.model, weights="/models/it"),
        stages=replace(policy.stages, encode=encode),
    )
    container, _ = engine_container(policy, Stage.ENCODE, ImagesConfig(), {})
    args = container["args"]
    first = args.index("--model")
    assert args[first : first + 4] == [
        "--model",
        "/models/it",
        "--served-model-name",
        "OpenGVLab/InternVL2_5-26B",
    ]
    assert args[-2:] == ["--enforce-eager", "--seed=0"]


def test_vllm_hands_embeddings_to_prefill_and_kv_to_decode_at_the_pods_address():
    policy = load_policy(ROOT / "policies" / "internvl-26b.yaml")
    given = {}
    for stage in Stage:
        container, _ = engine_container(policy, stage, ImagesConfig(), {})
        transfers = [arg for arg in container["args"] if "-transfer-config=" in arg]
        given[stage] = {arg.split("-")[2]: json.loads(arg.split("=", 1)[1]) for arg in transfers}
        hosts = [entry for entry in container["env"] if entry["name"].endswith("_SIDE_CHANNEL_HOST")]
        assert [host["valueFrom"]["fieldRef"]["fieldPath"] for host in hosts] == ["status.podIP"] * 2
    assert given[Stage.ENCODE] == {"ec": {"ec_connector": "ECCPUConnector", "ec_role": "ec_producer"}}
    assert given[Stage.PREFILL]["ec"]["ec_role"] == "ec_consumer"
    assert given[Stage.DECODE] == {"kv": {"kv_connector": "NixlConnector", "kv_role": "kv_both"}}
    assert given[Stage.PREFILL]["kv"] == given[Stage.DECODE]["kv"]


def test_servers_that_run_elsewhere_are_no_part_of_a_stack():
    with pytest.raises(ConfigError, match="openai is a server that runs elsewhere"):
        stack_of(ELSEWHERE)


def test_sglang_tells_decode_the_pods_address_and_is_one_server_where_nothing_is_split():
    policy = load_policy(ROOT / "policies" / "examples" / "sglang-pd.yaml")
    prefill = next(each for each in pools(stack_of(SGLANG)) if pool_of(each).stage is Stage.PREFILL)
    worker, engine = prefill["spec"]["template"]["spec"]["containers"]
    told = next(entry["value"] for entry in worker["env"] if entry["name"] == "TERCET_WORKER")
    assert '"peer_host": "$(POD_IP)"' in told and '"encoders_called": false' in told
    assert "--enable-metrics" in engine["args"]
    modes = [arg for arg in engine["args"] if arg in ("--disaggregation-mode", "prefill")]
    assert modes == ["--disaggregation-mode", "prefill"]
    whole = replace(policy, split=replace(policy.split, prefill_from=None))
    container, _ = engine_container(whole, Stage.DECODE, ImagesConfig(), {})
    assert "--disaggregation-mode" not in container["args"]


def test_sglangs_servers_that_prefill_have_others_encode_where_the_policy_has_encode_apart():
    """And their workers know, who tell them whom to call at the pods' addresses."""
    found = {}
    for each in pools(stack_of(Path("policies/examples/sglang-epd.yaml"))):
        worker, engine = each["spec"]["template"]["spec"]["containers"]
        told = next(entry["value"] for entry in worker["env"] if entry["name"] == "TERCET_WORKER")
        assert '"encoders_called": true' in told and '"peer_host": "$(POD_IP)"' in told
        assert engine["args"][engine["args"].index("--host") + 1] == "0.0.0.0"
        roles = {"--encoder-only", "--language-only", "--disaggregation-mode"}
        found[pool_of(each).stage] = roles.intersection(engine["args"])
    assert found == {
        Stage.ENCODE: {"--encoder-only"},
        Stage.PREFILL: {"--language-only", "--disaggregation-mode"},
        Stage.DECODE: {"--disaggregation-mode"},
    }


def test_sglangs_servers_that_can_change_roles_are_started_for_both():
    """With as many requests in a batch as either stage may have, since that stays as it was."""
    policy = load_policy(ROOT / ROLES)
    stages = replace(policy.stages, decode=replace(policy.stages.decode, batch=64))
    for stage, most in ((Stage.PREFILL, "64"), (Stage.DECODE, "64"), (Stage.ENCODE, "8")):
        container, _ = engine_container(replace(policy, stages=stages), stage, ImagesConfig(), {})
        args = container["args"]
        assert args[args.index("--max-running-requests") + 1] == most


def test_a_pod_that_may_change_roles_is_told_its_role_by_its_label():
    """Its worker reads a file that the kubelet keeps, and knows the slots of both stages."""
    found = {pool_of(each).stage: each for each in pools(stack_of(ROLES))}
    for stage in (Stage.PREFILL, Stage.DECODE):
        template = found[stage]["spec"]["template"]
        worker = template["spec"]["containers"][0]
        config = read_config(expanded(worker, "TERCET_WORKER", KNOWN | ROLLOUT))
        assert config.roles and config.roles.slots == {Stage.PREFILL: 16, Stage.DECODE: 16}
        assert config.server and config.server.switches_roles
        (held,) = [each for each in template["spec"]["volumes"] if "downwardAPI" in each]
        (mount,) = [each for each in worker["volumeMounts"] if each["name"] == held["name"]]
        (item,) = held["downwardAPI"]["items"]
        assert f"{mount['mountPath']}/{item['path']}" == config.roles.file
        assert item["fieldRef"]["fieldPath"] == f"metadata.labels['{STAGE}']"
        assert template["metadata"]["labels"][STAGE] == stage
        assert template["metadata"]["annotations"][MOVABLE]
    encode = found[Stage.ENCODE]["spec"]["template"]
    assert MOVABLE not in encode["metadata"]["annotations"]
    assert not [each for each in encode["spec"]["volumes"] if "downwardAPI" in each]


def test_a_pod_that_may_change_roles_may_take_as_long_to_end_as_either_stage():
    policy = load_policy(ROOT / ROLES)
    stages = replace(policy.stages, decode=replace(policy.stages.decode, drain_s=300))
    container, _ = engine_container(replace(policy, stages=stages), Stage.PREFILL, ImagesConfig(), {})
    assert container["lifecycle"]["preStop"]["sleep"]["seconds"] == 300
