"""The ways in: clients to gateways, everybody to Redis."""

from collections import defaultdict
from pathlib import Path

import pytest

from infra.config import ConfigError
from infra.objects.redis_access import redis_environment
from infra.shared_config import BrokerConfig
from infra.stack import stack_args
from orchestrator.shards import shard_of
from tests.infra.kit import ACCELERATORS, ROOT, config_of, expanded, named, stack_of
from tests.infra.reach import Pod, may_connect

TINY = Path("policies/tiny.yaml")
CLIENTS = ("worker", "gateway", "controller")


def containers(stack):
    pods = [t["spec"]["template"]["spec"] for t in stack.objects() if t["kind"] == "Deployment"]
    return [(pod, each) for pod in pods for each in pod["containers"] if each["name"] in CLIENTS]


def test_a_gateway_stays_inside_unless_it_is_exposed():
    stack = stack_of(TINY)
    assert not [t for t in stack.objects() if t["kind"] in ("Ingress", "HTTPRoute")]
    assert stack.gateways[0].url == "http://tiny-gateway.tercet.svc"


def test_an_ingress_ends_tls_with_a_secret_of_the_cluster():
    expose = {"host": "llm.example.com", "ingress_class": "nginx", "tls_secret": "llm-tls"}
    stack = stack_of(TINY, expose=expose | {"annotations": {"example.com/body-mb": "16"}})
    ingress = named(stack.objects(), "Ingress", "tiny-gateway")
    assert ingress["metadata"]["annotations"]["example.com/body-mb"] == "16"
    assert ingress["spec"]["tls"] == [{"hosts": ["llm.example.com"], "secretName": "llm-tls"}]
    backend = ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
    service = named(stack.objects(), "Service", backend["name"])
    assert backend["port"]["name"] in [port["name"] for port in service["spec"]["ports"]]
    assert stack.gateways[0].url == "https://llm.example.com"


def test_a_route_leads_from_a_gateway_of_another_namespace_and_lets_streams_last():
    stack = stack_of(TINY, expose={"host": "llm.example.com", "gateway": "web", "gateway_namespace": "edge"})
    spec = named(stack.objects(), "HTTPRoute", "tiny-gateway")["spec"]
    assert spec["parentRefs"] == [{"name": "web", "namespace": "edge"}]
    (rule,) = spec["rules"]
    service = named(stack.objects(), "Service", rule["backendRefs"][0]["name"])
    assert rule["backendRefs"][0]["port"] in [port["port"] for port in service["spec"]["ports"]]
    assert rule["timeouts"] == {"request": "0s"}


def test_gateways_are_as_many_as_said_or_scaled_on_their_processors():
    assert not [t for t in stack_of(TINY, gateways=3).objects() if t["kind"] == "HorizontalPodAutoscaler"]
    stack = stack_of(TINY, gateways=2, gateways_max=5)
    hpa = named(stack.objects(), "HorizontalPodAutoscaler", "tiny-gateway")["spec"]
    assert (hpa["minReplicas"], hpa["maxReplicas"]) == (2, 5)
    deployment = named(stack.objects(), "Deployment", hpa["scaleTargetRef"]["name"])
    assert deployment["spec"]["replicas"] == 2
    assert "cpu" in deployment["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]


@pytest.mark.parametrize(
    ("broker", "url"),
    [
        pytest.param({}, "redis://:sesame@redis:6379/0", id="plain"),
        pytest.param(
            {"tls_secret": "redis-tls"},
            "rediss://:sesame@redis:6379/0?ssl_ca_certs=/etc/tercet/redis/ca.crt",
            id="tls",
        ),
    ],
)
def test_all_processes_are_told_the_same_address(broker, url):
    for pod, each in containers(stack_of(TINY, {"broker": broker})):
        assert expanded(each, "REDIS_URL", {"REDIS_PASSWORD": "sesame", **KNOWN}) == url
        trusted = [mount for mount in each["volumeMounts"] if mount["mountPath"] == "/etc/tercet/redis"]
        assert len(trusted) == ("tls_secret" in broker)
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for mount in trusted:  # the key stays with Redis
            assert [item["key"] for item in volumes[mount["name"]]["secret"]["items"]] == ["ca.crt"]


def test_a_service_lives_whole_on_one_of_several_shards():
    """Its gateway and its workers are told one address; who cares for all services is told each, in order."""
    services = {name: {"policy": f"policies/{name}.yaml"} for name in ("tiny", "noop")}
    stack = stack_args(config_of(services=services, broker={"shards": 2}), ROOT, ACCELERATORS)
    assert named(stack.objects(), "StatefulSet")["spec"]["replicas"] == 2
    shards = [f"redis://:sesame@redis-{number}.redis:6379/0" for number in range(2)]
    told = defaultdict(set)
    for each in stack.objects():
        if each["kind"] == "Deployment":
            container = each["spec"]["template"]["spec"]["containers"][0]
            url = expanded(container, "REDIS_URL", {"REDIS_PASSWORD": "sesame", **KNOWN})
            told[each["metadata"]["name"].partition("-")[0]].add(url)
    of_all = {" ".join(shards)}
    assert told == {name: {shards[shard_of(name, 2)]} for name in services} | {"tercet": of_all}
    assert shard_of("tiny", 2) != shard_of("noop", 2)


def test_every_shard_of_somebody_else_s_has_a_key_of_the_secret():
    broker = BrokerConfig(external_port=6380, shards=2)
    *keys, url = redis_environment(broker)
    assert [key["valueFrom"]["secretKeyRef"]["key"] for key in keys] == ["url-0", "url-1"]
    assert url["value"] == " ".join(f"$({key['name']})" for key in keys)
    (own, _) = redis_environment(broker, "noop")
    assert own["valueFrom"]["secretKeyRef"]["key"] == f"url-{shard_of('noop', 2)}"


KNOWN = {"POD_NAME": "pod-1", "POD_IP": "10.0.0.7", "BLOB_TOKEN": "open", "MODEL": "m", "SLOTS": "1"}
KNOWN |= {"HARDWARE": "cpu", "DOMAIN": "[]"}


def test_redis_with_tls_has_no_other_door_and_keeps_its_data_on_a_chosen_class():
    broker = {"tls_secret": "redis-tls", "storage_gb": 8, "storage_class": "fast"}
    spec = named(stack_of(TINY, {"broker": broker}).objects(), "StatefulSet")["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    given = dict(zip(container["args"][::2], container["args"][1::2], strict=True))
    assert (given["--port"], given["--tls-port"], given["--requirepass"]) == (
        "0",
        "6379",
        "$(REDIS_PASSWORD)",
    )
    (secret,) = spec["template"]["spec"]["volumes"]
    files = {f"/etc/tercet/redis/{item['path']}" for item in secret["secret"]["items"]}
    assert files == {given[f"--tls-{name}-file"] for name in ("cert", "key", "ca-cert")}
    assert spec["volumeClaimTemplates"][0]["spec"]["storageClassName"] == "fast"


def test_somebody_else_s_redis_is_reached_by_a_secret_and_nothing_of_it_is_made():
    stack = stack_of(TINY, {"broker": {"external_port": 6380}})
    assert not [thing for thing in stack.objects() if thing["kind"] == "StatefulSet"]
    entry, url = redis_environment(BrokerConfig(external_port=6380))
    assert entry["valueFrom"]["secretKeyRef"] == {"name": "tercet-redis", "key": "url"}
    assert url == {"name": "REDIS_URL", "value": f"$({entry['name']})"}
    for _, each in containers(stack):
        assert entry in each["env"]
    policies = [thing for thing in stack.objects() if thing["kind"] == "NetworkPolicy"]
    labels = {"app.kubernetes.io/component": "controller"}
    ours, redis = Pod(address="10.0.0.1", namespace="tercet", labels=labels), Pod(address="10.9.9.9")
    assert [may_connect(policies, ours, redis, port) for port in (6380, 6379)] == [True, False]


@pytest.mark.parametrize(
    ("stack", "service", "told"),
    [
        pytest.param({}, {"expose": {"host": "a.example.com"}}, "exactly one of ingress_class", id="no-way"),
        pytest.param(
            {},
            {"expose": {"host": "a.example.com", "gateway": "web", "tls_secret": "t"}},
            "`tercet:services.tiny.expose.tls_secret`: the Gateway's listener holds",
            id="tls",
        ),
        pytest.param(
            {},
            {"expose": {"host": "a.example.com", "ingress_class": "x", "gateway_namespace": "y"}},
            "an Ingress has no Gateway",
            id="namespace",
        ),
        pytest.param({}, {"gateways": 3, "gateways_max": 2}, "2 is below gateways, 3", id="bounds"),
        pytest.param({"broker": {"storage_class": "fast"}}, {}, "there is no volume", id="class"),
        pytest.param(
            {"broker": {"external_port": 6379, "storage_gb": 1}}, {}, "keeps its own", id="external"
        ),
        pytest.param({"broker": {"shard": 2}}, {}, "`tercet:broker.shard`: unknown key", id="shard"),
    ],
)
def test_what_contradicts_itself_is_refused(stack, service, told):
    with pytest.raises(ConfigError) as refused:
        stack_of(TINY, stack, **service)
    assert told in str(refused.value)
