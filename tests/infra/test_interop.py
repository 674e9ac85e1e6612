"""Objects that other people's controllers act on: scalers, queues, groups of pods, pools of endpoints."""

import re
from pathlib import Path

import pytest
import yaml

from infra.config import ConfigError
from orchestrator.kube_names import ACCELERATOR_RESOURCE, HARDWARE, STAGE
from orchestrator.policy import load_policy
from stages.types import Stage
from tests.infra.kit import POLICIES, ROOT, WATCHED, named, stack_of
from tests.infra.reach import Pod, may_connect

BIG = Path("policies/internvl-26b.yaml")
COUNTED = ("Deployment", "LeaderWorkerSet")
SCALERS = ("HorizontalPodAutoscaler", "ScaledObject")
SMALL_NODES = {"h20": {"hardware": "h20", "accelerators": 2, "simulated": {"nodes": 2}}}
every_scaler = pytest.mark.parametrize("autoscaler", ["hpa", "keda"])
each_policy = pytest.mark.parametrize("file", POLICIES, ids=str)


def of_kinds(stack, *kinds):
    return [thing for thing in stack.objects() if thing["kind"] in kinds]


def pools(stack):
    return [thing for thing in of_kinds(stack, *COUNTED) if STAGE in thing["metadata"]["labels"]]


def templates(pool):
    of_group = pool["spec"].get("leaderWorkerTemplate", {})
    found = [pool["spec"].get("template"), of_group.get("leaderTemplate"), of_group.get("workerTemplate")]
    return [template for template in found if template]


@each_policy
@every_scaler
def test_each_stage_has_one_scaler_and_no_pod_a_gate(file, autoscaler):
    """On its best hardware class, within the policy's bounds; nobody would lift a gate."""
    policy, stack = load_policy(ROOT / file), stack_of(file, WATCHED, autoscaler=autoscaler)
    counts = {thing["metadata"]["name"]: thing for thing in pools(stack)}
    targets = [thing["spec"]["scaleTargetRef"] for thing in of_kinds(stack, *SCALERS)]
    assert len({target["name"] for target in targets}) == len(targets) == len(policy.used_stages)
    for target in targets:
        pool = counts[target["name"]]
        assert (target["kind"], target["apiVersion"]) == (pool["kind"], pool["apiVersion"])
        of_stage = policy.stages[Stage(pool["metadata"]["labels"][STAGE])]
        assert pool["metadata"]["labels"][HARDWARE] == of_stage.hardware[0]
        assert pool["spec"]["replicas"] == max(of_stage.min, autoscaler == "hpa"), "an HPA leaves none alone"
    others = [thing for name, thing in counts.items() if name not in {target["name"] for target in targets}]
    assert all(thing["spec"]["replicas"] == 0 for thing in others)
    assert stack.controller is None
    assert not any("schedulingGates" in t["spec"] for thing in counts.values() for t in templates(thing))


@each_policy
@every_scaler
def test_names_are_within_limits_whatever_is_asked_for(file, autoscaler):
    """KEDA's own HPA has a longer name; `stack_of` itself refuses collisions."""
    service = {"queue": "serving", "gateways_max": 9, "expose": {"host": "a.example.com", "gateway": "web"}}
    if load_policy(ROOT / file).stages.decode.engine == "vllm":
        service["inference_pool"] = {"picker": "picker"}
    stack = stack_of(file, WATCHED, autoscaler=autoscaler, **service)
    for thing in stack.objects():
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", thing["metadata"]["name"])
        assert all(len(value) <= 63 for value in thing["metadata"].get("labels", {}).values())
        if thing["kind"] == "ScaledObject":
            assert len(f"keda-hpa-{thing['metadata']['name']}") <= 63


@each_policy
@pytest.mark.parametrize("autoscaler", ["tercet", "none"])
def test_nobody_else_scales_pools_of_the_controller_or_of_nobody(file, autoscaler):
    assert not of_kinds(stack_of(file, WATCHED, autoscaler=autoscaler), *SCALERS)


def test_a_replica_is_to_have_seven_tenths_of_its_slots_busy():
    """As the scaling policy `hpa` has it in the simulator: decode has 96 slots there."""
    hpa = named(stack_of(BIG, WATCHED, autoscaler="hpa").objects(), *hpa_of("decode-h20"))["spec"]
    assert (hpa["minReplicas"], hpa["maxReplicas"]) == (1, 64)
    (metric,) = hpa["metrics"]
    assert metric["external"]["target"] == {"type": "AverageValue", "averageValue": "67200m"}
    chosen = metric["external"]["metric"]["selector"]["matchLabels"]
    assert chosen == {"tercet_service": "internvl-26b", "stage": "decode"}
    keda = named(
        stack_of(BIG, WATCHED, autoscaler="keda").objects(), "ScaledObject", "internvl-26b-decode-h20"
    )
    (trigger,) = keda["spec"]["triggers"]
    assert trigger["metadata"]["threshold"] == "67.2"
    assert trigger["metadata"]["serverAddress"] == "http://prometheus.monitoring:9090"


def hpa_of(pool):
    return "HorizontalPodAutoscaler", f"internvl-26b-{pool}"


def test_parameters_of_the_policy_hpa_are_those_of_the_hpa():
    """`policies/examples/scaling/hpa.yaml` differs between stages."""
    file = Path("policies/examples/scaling/hpa.yaml")
    policy = load_policy(ROOT / file)
    for thing in of_kinds(stack_of(file, WATCHED, autoscaler="hpa"), "HorizontalPodAutoscaler"):
        stage, params = thing["metadata"]["labels"][STAGE], policy.scaling.params
        aim = getattr(params, f"{stage}_target", None) or params.target
        (metric,) = thing["spec"]["metrics"]
        wanted = round(1000 * policy.stages[Stage(stage)].batch * aim)
        assert metric["external"]["target"]["averageValue"] == f"{wanted}m"
        window_s = thing["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"]
        assert window_s == params.stabilise_s


def test_a_queue_of_kueue_is_named_on_the_pools_and_no_gate_stands_beside_its_own():
    stack = stack_of(BIG, autoscaler="none", queue="serving")
    for pool in pools(stack):
        assert pool["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "serving"
        assert "schedulingGates" not in pool["spec"]["template"]["spec"]
        assert "kueue.x-k8s.io/queue-name" not in pool["spec"]["selector"]["matchLabels"]


def test_a_replica_larger_than_a_node_is_a_group_of_pods():
    """Its accelerators are split over the pods; only the first has a worker, answers and leads the others."""
    stack = stack_of(BIG, {**WATCHED, "node_pools": SMALL_NODES}, autoscaler="keda")
    (groups,) = of_kinds(stack, "LeaderWorkerSet")
    leader, follower = templates(groups)
    assert groups["spec"]["leaderWorkerTemplate"]["size"] == 2
    for template in (leader, follower):
        assert template["spec"]["tolerations"][0]["operator"] == "Exists", (
            "clouds differ in the taint's value"
        )
    assert [c["name"] for c in leader["spec"]["containers"]] == ["worker", "engine"]
    assert [c["name"] for c in follower["spec"]["containers"]] == ["engine"]
    engines = [template["spec"]["containers"][-1] for template in (leader, follower)]
    assert [engine["resources"]["limits"][ACCELERATOR_RESOURCE] for engine in engines] == ["2", "2"]
    assert ["--headless" in engine["args"] for engine in engines] == [False, True]
    assert ["readinessProbe" in engine for engine in engines] == [True, False]
    for engine in engines:
        args = dict(zip(engine["args"], engine["args"][1:], strict=False))
        assert (args["--nnodes"], args["--node-rank"]) == ("$(LWS_GROUP_SIZE)", "$(LWS_WORKER_INDEX)")
        assert args["--tensor-parallel-size"] == "4"
    policies = of_kinds(stack, "NetworkPolicy")
    one, other = (
        Pod(address=f"10.0.0.{number}", namespace="tercet", labels=template["metadata"]["labels"])
        for number, template in enumerate((leader, follower), 1)
    )
    assert may_connect(policies, one, other, 29_500)
    assert not may_connect(policies, Pod(address="10.0.0.9", namespace="tercet"), other, 29_500)


@pytest.mark.parametrize(
    ("stack", "service", "told"),
    [
        pytest.param(
            {"node_pools": {**SMALL_NODES, "h100": {**SMALL_NODES["h20"], "hardware": "h100"}}},
            {},
            "prefill on h100 has tp 4 and nodes have 2: the controller",
            id="lws",
        ),
        pytest.param(
            {"node_pools": {"h20": {**SMALL_NODES["h20"], "accelerators": 3}}},
            {"autoscaler": "none"},
            "nodes have 3: tp has to be a multiple",
            id="uneven",
        ),
        pytest.param(
            {}, {"autoscaler": "hpa"}, "hpa goes by what Prometheus has: set observability.monitors", id="hpa"
        ),
        pytest.param(
            {"observability": {"monitors": True}},
            {"autoscaler": "keda"},
            "`tercet:services.internvl-26b.autoscaler`: set observability.prometheus",
            id="keda",
        ),
        pytest.param({}, {"queue": "serving"}, "Kueue and the controller would both place", id="kueue"),
    ],
)
def test_what_would_work_against_each_other_is_refused(stack, service, told):
    with pytest.raises(ConfigError) as refused:
        stack_of(BIG, stack, **service)
    assert told in str(refused.value)


def test_the_controller_has_another_class_to_choose_where_the_nodes_of_one_are_small():
    large = {"h100": {"hardware": "h100", "simulated": {"nodes": 1}}}
    stack = stack_of(BIG, {"node_pools": {**SMALL_NODES, **large}})
    assert not of_kinds(stack, "LeaderWorkerSet")


def test_an_engine_that_runs_on_one_node_is_not_split(tmp_path):
    text = (ROOT / "policies/tiny.yaml").read_text()
    file = tmp_path / "tiny.yaml"
    file.write_text(
        text.replace(
            "decode:  {engine: tiny, hardware: [cpu],", "decode:  {engine: tiny, hardware: [h20], tp: 4,"
        )
    )
    with pytest.raises(ConfigError, match="engine tiny runs on one node; sglang and vllm on more"):
        stack_of(file, {"node_pools": SMALL_NODES}, autoscaler="none")


def test_an_inference_pool_has_the_decode_engines_and_the_policy_s_weights():
    stack = stack_of(BIG, inference_pool={"picker": "picker", "from_namespace": "ingress"})
    pool = named(stack.objects(), "InferencePool")
    selected = pool["spec"]["selector"]["matchLabels"].items()
    for thing in pools(stack):
        (template,) = templates(thing)
        is_decode = template["metadata"]["labels"][STAGE] == "decode"
        assert (selected <= template["metadata"]["labels"].items()) == is_decode
        ports = [port["containerPort"] for c in template["spec"]["containers"] for port in c["ports"]]
        assert pool["spec"]["targetPorts"][0]["number"] in ports
    data = named(stack.objects(), "ConfigMap", pool["metadata"]["name"])["data"]
    (profile,) = yaml.safe_load(data["picker.yaml"])["schedulingProfiles"]
    assert {"pluginRef": "kv-cache-utilization-scorer", "weight": 1.0} in profile["plugins"]
    way_in = named(stack.objects(), "NetworkPolicy", pool["metadata"]["name"])["spec"]
    assert way_in["podSelector"] == pool["spec"]["selector"]
    (peer,) = way_in["ingress"][0]["from"]
    assert peer["namespaceSelector"]["matchExpressions"][0]["values"] == ["ingress", "tercet"]


def test_an_inference_pool_of_engines_that_take_no_whole_requests_is_refused():
    with pytest.raises(ConfigError, match="decode has to be vllm"):
        stack_of(Path("policies/tiny.yaml"), inference_pool={"picker": "picker"})
