"""One controller on two real control planes, with the account that each member stack has for it."""

from contextlib import ExitStack

import pytest

from cli.cluster_nodes import add_nodes
from infra.federation.config import facts_of, federation_args, parse_federation
from infra.objects.federation import federation_objects, federation_spec, member_output
from localcluster.cluster import running_cluster
from orchestrator.control_policy import Hardware
from orchestrator.kube_names import GROUP
from orchestrator.simulator.fleet_spec import parse_fleet
from stages.types import Stage
from tests.cluster.loop import (
    MODEL,
    POLICY,
    account_of_controller,
    add_pools,
    controller_args,
    controlling,
    logged,
    ready,
    serve_until,
)
from tests.cluster.objects import LEVELS, Api, is_ready
from tests.cluster.traffic import Traffic
from tests.fakes.redis_process import RedisProcess
from tests.infra.kit import ROOT, expanded, named, pulumi_values

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

FLEETS = {"east": "h100=2x8,a100=2x8", "west": "h100=4x8,a100=3x8"}
"""Neither has room for all that the load of both takes."""


class Both:
    """Clusters seen as one, with the traffic that comes to each."""

    def __init__(self, clusters, redis):
        self.apis = clusters
        self.api = self
        self._traffic = [Traffic(redis[name].url, clusters[name], MODEL) for name in clusters]

    def come(self, rate):
        for each in self._traffic:
            each.rate = rate

    def step(self):
        for each in self._traffic:
            each.step()

    def pods(self):
        return [pod for api in self.apis.values() for pod in api.pods()]

    def ready(self):
        return {name: ready(api) for name, api in self.apis.items()}


@pytest.fixture(scope="module")
def clusters(programs):
    with ExitStack() as stack:
        made = {name: stack.enter_context(running_cluster()) for name in FLEETS}
        for name, fleet in FLEETS.items():
            add_nodes(made[name].kubeconfig, parse_fleet(fleet, LEVELS), LEVELS)
        yield made


@pytest.fixture
def apis(clusters):
    with ExitStack() as stack:
        yield {name: stack.enter_context(Api(each.kubeconfig)) for name, each in clusters.items()}


@pytest.fixture
def redis(tmp_path_factory):
    with ExitStack() as stack:
        yield {name: stack.enter_context(RedisProcess(tmp_path_factory.mktemp(name))) for name in FLEETS}


@pytest.fixture
def controller(clusters, apis, redis, tmp_path):
    """With the flags, the policies and the environment that the second program gives its pod; its log."""
    flags, variables = deployed(apis, redis, tmp_path)
    for name, api in apis.items():
        add_pools(api)
        account_of_controller(clusters[name], api, tmp_path / "members" / name, elsewhere=True)
    with controlling(flags, tmp_path / "controller.log", variables) as log:
        yield log


def deployed(apis, redis, folder):
    """Lay down what the pod mounts; return flags and environment of its container."""
    (folder / "loop.yaml").write_text(POLICY)
    members = {name: {"stack": f"organization/tercet/{name}", "secret": name} for name in apis}
    config = {"members": members, "services": {"loop": str(folder / "loop.yaml")}}
    values = pulumi_values({f"tercet-federation:{key}": value for key, value in config.items()})
    args = federation_args(parse_federation(values, "test"), ROOT, Hardware.load())
    outputs = {name: member_output(controller_args(api, elsewhere=True)) for name, api in apis.items()}
    spec = federation_spec(args, facts_of(outputs, args))
    (container,) = spec["template"]["spec"]["containers"]
    for name in apis:
        (folder / "members" / name).mkdir(parents=True)
    policies = folder / "policies" / "loop"
    policies.mkdir(parents=True)
    for name, text in named(federation_objects(args, spec), "ConfigMap")["data"].items():
        (policies / name).write_text(text)
    secrets = {entry["name"]: entry["valueFrom"]["secretKeyRef"] for entry in container["env"][:-2]}
    known = {name: redis[key["name"]].url for name, key in secrets.items()}
    flags = [flag.replace("/etc/tercet", str(folder)) for flag in container["args"]]
    return flags, {"TERCET_REDIS_URL": expanded(container, "TERCET_REDIS_URL", known)}


def test_two_clusters_follow_their_common_load_each_with_whole_groups(apis, redis, controller):
    """What has no room in one is in the other; when load ends both shrink."""
    both = Both(apis, redis)
    serve_until(both, "one replica of each stage", lambda: ready(both) == dict.fromkeys(Stage, 1), controller)

    both.come(20.0)

    def grown():
        now = both.ready()
        return all(min(each.values()) >= 1 and sum(each.values()) >= 8 for each in now.values())

    serve_until(both, "each has grown, with every stage", grown, controller)
    groups = {
        name: {pod.metadata.labels[GROUP] for pod in filter(is_ready, api.pods())}
        for name, api in apis.items()
    }
    assert all(groups.values())
    assert not groups["east"] & groups["west"], "nothing of a group is elsewhere"
    shares = logged(controller, "shares")[-1]["shares"]["loop"]
    assert sum(shares.values()) == pytest.approx(1.0, abs=0.02)

    peak = both.ready()
    both.come(0.1)

    def shrunk():
        counts = [(sum(now.values()), sum(peak[name].values())) for name, now in both.ready().items()]
        return all(now < before for now, before in counts) and 2 * sum(now for now, _ in counts) <= sum(
            before for _, before in counts
        )

    serve_until(both, "each has shrunk, and both together to half", shrunk, controller)
    assert all(count >= 1 for count in ready(both).values())
