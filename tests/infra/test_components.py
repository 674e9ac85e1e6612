"""What Pulumi is told, by mocks of its engine."""

import asyncio
import json
import os
import subprocess
import sys

import pulumi
import pytest
import yaml
from pulumi.runtime import Mocks, set_mocks
from pulumi.runtime import test as pulumi_test
from pulumi.runtime.mocks import MockMonitor

from infra import program
from infra.stack import stack_args
from orchestrator.kube_names import GATE
from tests.infra.kit import ACCELERATORS, ROOT, WATCHED, example, stack_of

DEPLOYMENT = "kubernetes:apps/v1:Deployment"


class Echo(Mocks):
    def new_resource(self, args):
        return args.name, args.inputs

    def call(self, args):
        return {}


class Recorder(MockMonitor):
    """A mock monitor that keeps the requests."""

    def __init__(self, mocks):
        super().__init__(mocks)
        self.requests = {}

    def RegisterResource(self, request):  # noqa: N802  # Pulumi's name
        self.requests[request.type, request.name] = request
        return super().RegisterResource(request)


def declared(register, mocks=None):
    """Return what is registered by a program."""
    asyncio.set_event_loop(asyncio.new_event_loop())
    mocks = mocks or Echo()
    recorder = Recorder(mocks)
    set_mocks(mocks, project="tercet", stack="simulated", monitor=recorder)
    pulumi_test(register)()
    return recorder.requests


@pytest.fixture(scope="module")
def args():
    return stack_args(example("simulated"), ROOT, ACCELERATORS)


@pytest.fixture(scope="module")
def requests(args):
    """Everything that the example stack registers."""
    return declared(lambda: program.declare(args))


def test_every_object_of_the_stack_is_registered_below_a_component(args, requests):
    """Under the provider's name of its type and with the provider's version."""
    objects = [each for each in requests.values() if each.type.startswith("kubernetes:")]
    assert len(objects) == len(list(args.objects()))
    assert all("tercet:infra:" in each.parent for each in objects)
    assert {each.version for each in objects} == {"4.32.0"}


def test_simulated_racks_lie_in_blocks_and_those_in_zones(args):
    """In the order of the policy's levels, though Pulumi sorts keys."""
    levels = args.services[0].policy.topology.levels
    nodes = [each for each in args.objects() if each["kind"] == "Node"]
    found = {tuple(each["metadata"]["labels"].get(level) for level in levels) for each in nodes}
    assert {("d-1", "d-1-0", "d-1-0-3"), ("d-0", "d-0-1", "d-0-1-0")} <= found
    assert len({domain for domain in found if None not in domain}) == 2 * 2 * 4


def test_the_simulated_stack_has_nodes_and_gated_pools(requests):
    assert sum(kind == "kubernetes:core/v1:Node" for kind, _ in requests) == 3 * 16 + 2
    pool = requests[DEPLOYMENT, "tercet/internvl-26b-prefill-h100"].object
    assert pool["spec"]["replicas"] == 0
    assert pool["spec"]["template"]["spec"]["schedulingGates"][0]["name"] == GATE
    assert pool["metadata"]["annotations"]["pulumi.com/skipAwait"] == "true"


def test_only_pools_leave_their_counts_to_somebody_else(requests):
    """One owner per field: the controller has the counts of pools, the program all others."""
    ignoring = {name for (_, name), each in requests.items() if list(each.ignoreChanges)}
    pools = {
        f"tercet/internvl-26b-{pool}"
        for pool in ("encode-l40s", "encode-a100", "prefill-h100", "decode-h20", "decode-h100")
    }
    assert ignoring == pools
    assert {tuple(requests[DEPLOYMENT, name].ignoreChanges) for name in pools} == {("spec.replicas",)}


def test_counts_that_keda_sets_are_left_to_it():
    """Of Deployments and LeaderWorkerSets, of gateways under an HPA; not of pools that nobody scales."""
    nodes = {"h20": {"hardware": "h20", "accelerators": 2, "simulated": {"nodes": 1}}}
    stack = stack_of(
        "policies/internvl-26b.yaml", {**WATCHED, "node_pools": nodes}, autoscaler="keda", gateways_max=4
    )
    found = declared(lambda: program.declare(stack))
    ignoring = {(kind.rpartition(":")[2], name) for (kind, name), each in found.items() if each.ignoreChanges}
    assert ignoring == {
        ("Deployment", "tercet/internvl-26b-encode-l40s"),
        ("Deployment", "tercet/internvl-26b-prefill-h100"),
        ("LeaderWorkerSet", "tercet/internvl-26b-decode-h20"),
        ("Deployment", "tercet/internvl-26b-gateway"),
    }
    assert ("tercet:infra:Observability", "observability") in found
    assert all("tercet:infra:" in r.parent for r in found.values() if r.type.startswith("kubernetes:"))


def test_a_wrong_configuration_ends_the_run_with_its_message(monkeypatch):
    """No traceback for a mistyped key."""
    monkeypatch.setattr(program, "get_config_env", lambda: {"tercet:servces": "{}"})
    with pytest.raises(pulumi.RunError, match="did you mean `services`"):
        declared(program.main)


@pytest.mark.parametrize(
    ("project", "key", "meant"),
    [(".", "tercet:servces", "services"), ("infra/federation", "tercet-federation:membrs", "members")],
)
def test_each_program_starts_as_pulumi_starts_it(project, key, meant):
    """Pulumi's language host, which is not at hand, runs the folder that Pulumi.yaml names."""
    folder = ROOT / project
    main = folder / yaml.safe_load((folder / "Pulumi.yaml").read_text())["main"]
    start = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
    environment = {**os.environ, "PULUMI_CONFIG": json.dumps({key: "{}"})}
    command = [sys.executable, "-c", start, str(main)]
    done = subprocess.run(command, cwd=main, env=environment, capture_output=True, text=True)
    assert f"did you mean `{meant}`" in done.stderr
