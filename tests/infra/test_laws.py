"""What holds of the objects of every policy that is valid, not of those in the repository alone."""

import json
import re
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from infra.config import ImagesConfig
from infra.objects.gateway import GatewayArgs, gateway_objects
from infra.objects.names import check_collisions
from infra.objects.service import ModelServiceArgs, service_objects
from infra.objects.stage_pool import pool_objects
from infra.service_config import ExposeConfig, InferencePoolConfig, ServiceConfig
from infra.shared_config import BrokerConfig
from orchestrator.policy import SERVERS
from orchestrator.policy.load import parse_policy
from stages.types import Stage
from tests.infra.kit import ACCELERATORS

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")

counts = st.integers(1, 512)
# Names that are made of what names are made of, and long ones.
names = st.from_regex(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True) | st.sampled_from(
    ["a", "a-b", "a-encode", "a-gateway", "a-policy", "a-encode-h100", "redis", "controller"]
)


def stages_by(engines):
    stage = st.fixed_dictionaries(
        {
            "engine": engines,
            "hardware": st.lists(st.sampled_from(sorted(ACCELERATORS)), min_size=1, max_size=7, unique=True),
            "tp": counts,
            "batch": counts,
            "drain_s": counts,
        }
    )
    return st.fixed_dictionaries({each.value: stage for each in Stage})


# Engines that are servers work with their like alone.
stages = stages_by(st.sampled_from(["tiny", "smollm2", "noop"])) | st.sampled_from(
    ["vllm", "sglang"]
).flatmap(lambda engine: stages_by(st.just(engine)))
policies = st.fixed_dictionaries(
    {
        "apiVersion": st.just("tercet/v1"),
        "service": names,
        "model": st.fixed_dictionaries(
            {"name": st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=200)},
            optional={"kappa": st.sampled_from([0, 1]), "max_context": counts},
        ),
        "stages": stages,
    }
)


# What a stack may ask for of a service, and how it reaches Redis.
asked = st.fixed_dictionaries(
    {
        "autoscaler": st.sampled_from(["tercet", "hpa", "keda", "none"]),
        "gateways_max": st.sampled_from([None, 4]),
        "expose": st.sampled_from(
            [
                None,
                ExposeConfig(host="a.example.com", ingress_class="nginx", tls_secret="tls"),
                ExposeConfig(host="a.example.com", gateway="web", gateway_namespace="edge"),
            ]
        ),
        "inference_pool": st.sampled_from([None, InferencePoolConfig(picker="picker")]),
    }
)
brokers = st.sampled_from([BrokerConfig(), BrokerConfig(tls_secret="tls"), BrokerConfig(external_port=6380)])


def objects_of(document, asked, broker):
    """Return the objects of a service as a stack makes them, with replicas that span nodes where they may."""
    policy = parse_policy(json.dumps(document), "p.yaml")
    config = ServiceConfig(policy="p.yaml", queue="q" if asked["autoscaler"] == "none" else None, **asked)
    controlled = config.autoscaler == "tercet"
    large = {stage: 2 for stage in Stage if policy.stages[stage].engine in SERVERS and not controlled}
    common = {"namespace": "tercet", "broker": broker}
    service = ModelServiceArgs(
        policy=policy,
        file=Path("p.yaml"),
        config=config,
        images=ImagesConfig(),
        priority_class="serving",
        nodes=large,
        prometheus="http://prometheus:9090",
        **common,
    )
    gateway = GatewayArgs(
        service=policy.service,
        replicas=1,
        max_replicas=config.gateways_max or 1,
        image="i",
        keys_secret="keys",
        expose=config.expose,
        **common,
    )
    pools = [thing for pool in service.pools for thing in pool_objects(pool)]
    return [*service_objects(service), *pools, *gateway_objects(gateway)]


@settings(max_examples=40, deadline=None)
@given(st.lists(policies, min_size=1, max_size=3, unique_by=lambda each: each["service"]), asked, brokers)
def test_services_side_by_side_have_valid_objects_of_their_own(documents, asked, broker):
    """Names and labels are within limits, nothing collides, and selectors choose their own pods alone."""
    things = [thing for document in documents for thing in objects_of(document, asked, broker)]
    check_collisions(things)
    for thing in things:
        assert LABEL.fullmatch(thing["metadata"]["name"])
        assert all(LABEL_VALUE.fullmatch(value) for value in thing["metadata"]["labels"].values())
    assert json.loads(json.dumps(things)) == things
    scalers = [thing["spec"] for thing in things if "scaleTargetRef" in thing.get("spec", {})]
    scaled = [json.dumps(each["scaleTargetRef"]) for each in scalers]
    assert len(set(scaled)) == len(scaled), "two scalers on one pool"
    deployments = [thing["spec"] for thing in things if thing["kind"] == "Deployment"]
    for each in deployments:
        wanted = each["selector"]["matchLabels"].items()
        chosen = [d for d in deployments if wanted <= d["template"]["metadata"]["labels"].items()]
        assert chosen == [each]


def pods(things):
    """Yield the spec of every pod in Deployments and LeaderWorkerSets."""
    for thing in things:
        if thing["kind"] == "Deployment":
            yield thing["spec"]["template"]["spec"]
        if thing["kind"] == "LeaderWorkerSet":
            group = thing["spec"]["leaderWorkerTemplate"]
            yield from (group[name]["spec"] for name in ("leaderTemplate", "workerTemplate"))


@settings(max_examples=40, deadline=None)
@given(policies, asked, brokers)
def test_what_a_pod_names_is_there(document, asked, broker):
    """Each volume that is mounted, and each ConfigMap that is read, is one of the same stack."""
    things = objects_of(document, asked, broker)
    maps = {thing["metadata"]["name"] for thing in things if thing["kind"] == "ConfigMap"}
    for pod in pods(things):
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert set(re.findall(r'"configMap(?:KeyRef)?": {"name": "([^"]+)"', json.dumps(pod))) <= maps
