"""The policy pack, run and asked as Pulumi does both."""

import json
import os
import subprocess
import sys

import grpc
import pytest
from google.protobuf import struct_pb2
from pulumi.runtime.proto import analyzer_pb2, analyzer_pb2_grpc

from infra.automation import PACK
from infra.policy_pack.rules import RULES
from tests.infra.kit import ROOT, example_values, pulumi_values

STACK = "urn:pulumi:simulated::tercet::pulumi:pulumi:Stack::tercet-simulated"
FIGURES = {
    "pools": {"cost_per_month_usd": 9_000.0},
    "services": {"internvl-26b": {"slo_attainment": 0.99, "attainment": {"all": 0.7}}},
    "total": {"cost_per_month_usd": 4_000.0},
    "not_simulated": [],
}


@pytest.fixture
def judged():
    """Asks the pack about a stack; returns what it reports by rule."""
    running = []

    def ask(figures, limits=None, **config):
        values = example_values("simulated") | pulumi_values({f"tercet:{k}": v for k, v in config.items()})
        about = {"PULUMI_PROJECT": "tercet", "PULUMI_STACK": "simulated", "PULUMI_DRY_RUN": "true"}
        pack = subprocess.Popen(
            [sys.executable, "-u", "-m", "pulumi.policy", "127.0.0.1:0", "."],
            cwd=PACK,
            env=os.environ | about | {"PYTHONPATH": str(ROOT), "PULUMI_CONFIG": json.dumps(values)},
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(pack)
        with grpc.insecure_channel(f"127.0.0.1:{pack.stdout.readline().strip()}") as channel:
            analyzer = analyzer_pb2_grpc.AnalyzerStub(channel)
            analyzer.Configure(configured(limits or {}), timeout=10)
            answer = analyzer.AnalyzeStack(stack_with(figures), timeout=30)
        reports = {}
        for each in answer.diagnostics:
            reports.setdefault(each.policyName, []).append(each.message)
        return reports

    yield ask
    for pack in running:
        pack.kill()
        pack.communicate()


def configured(limits):
    request = analyzer_pb2.ConfigureAnalyzerRequest()
    for rule in RULES:
        config = request.policyConfig[rule.name]
        config.enforcementLevel = analyzer_pb2.MANDATORY
        if rule.name == "is-affordable":
            config.properties.update(limits)
    return request


def stack_with(figures):
    properties = struct_pb2.Struct()
    if figures is not None:
        properties.update({"simulated": figures})
    stack = analyzer_pb2.AnalyzerResource(
        type="pulumi:pulumi:Stack", name="tercet-simulated", urn=STACK, properties=properties
    )
    return analyzer_pb2.AnalyzeStackRequest(resources=[stack])


def test_the_example_can_work_and_is_only_told_its_simulated_attainment(judged):
    reports = judged(FIGURES)
    assert set(reports) == {"keeps-slos"}
    assert "attainment 70.0% is below slo.attainment 99.0%" in reports["keeps-slos"][0]


def test_what_costs_more_than_allowed_is_told_both_figures(judged):
    reports = judged(FIGURES, {"usd_per_month": 3_999, "pools_usd_per_month": 8_999})["is-affordable"]
    assert [each.splitlines()[1] for each in reports] == [
        "all nodes of the pools: $9,000 a month is more than the $8,999 allowed",
        "what replicas take by the simulation: $4,000 a month is more than the $3,999 allowed",
    ]
    assert "is-affordable" not in judged(FIGURES, {"usd_per_month": 4_000, "pools_usd_per_month": 9_000})


def test_what_is_not_predicted_may_cost_anything(judged):
    """By no prediction, or by a service that is left out of it."""
    (told,) = judged(None, {"usd_per_month": 1e9})["is-affordable"]
    assert "nothing is predicted" in told
    left_out = FIGURES | {"not_simulated": ["noop: its model has no profile"]}
    (told,) = judged(left_out, {"usd_per_month": 1e9})["is-affordable"]
    assert "noop: its model has no profile" in told


def test_what_cannot_work_is_told_with_the_numbers(judged):
    """Whatever program declares it: as the program of this project refuses it."""
    small = {"h100": {"hardware": "h100", "accelerators": 4, "simulated": {"nodes": 1}}}
    reports = judged(FIGURES, node_pools=small)["can-work"]
    assert any("runs on l40s or a100, and the node pools have h100" in each for each in reports)


def test_a_configuration_that_cannot_be_read_is_told(judged):
    (told,) = judged(FIGURES, no_such_key=1)["can-work"]
    assert "no_such_key" in told
