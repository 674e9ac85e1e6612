"""What is scraped, what is computed of it and what is shown."""

import asyncio
import json
import re
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase

from infra.objects.dashboard import PANELS
from infra.objects.scalers import ADAPTED_METRIC, LOAD_METRIC
from infra.objects.slo_rules import BURNS, alert_rules, recorded_misses
from orchestrator.control_metrics import ControlMetrics
from orchestrator.kube_names import METRIC_SERVICE
from tests.infra.kit import WATCHED, named, stack_of
from tests.orchestrator.test_gateway import running

BIG = Path("policies/internvl-26b.yaml")
ATTACHED = {"namespace", "pod", METRIC_SERVICE}
"""Labels that Prometheus gives what it scrapes, by the PodMonitor."""

SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}


async def _exported():
    """Return the labels of every sample that gateways and controllers export, by its name."""
    async with running() as bench:
        bench.metrics.watch(bench.fleet, bench.counting)
        holders = (bench.metrics, ControlMetrics())
        written = [each for holder in holders for each in vars(holder).values()]
        labels = {
            each._name: set(each._labelnames) for each in written if isinstance(each, MetricWrapperBase)
        }
        found = {}
        for family in (each for holder in holders for each in holder.registry.collect()):
            seen = [set(sample.labels) for sample in family.samples]
            of_family = labels.get(family.name, set().union(*seen))
            for suffix in SUFFIXES[family.type]:
                found[family.name + suffix] = of_family | ({"le"} if suffix == "_bucket" else set())
        return found


@pytest.fixture(scope="module")
def exported():
    return asyncio.run(_exported())


def rules(stack):
    objects = [thing for thing in stack.objects() if thing["kind"] == "PrometheusRule"]
    return [rule for thing in objects for group in thing["spec"]["groups"] for rule in group["rules"]]


def queries():
    scaled = stack_of(BIG, WATCHED, autoscaler="keda")
    yield from (query for panel in PANELS for query in panel.queries.values())
    yield from (rule["expr"] for rule in rules(scaled))
    for thing in scaled.objects():
        if thing["kind"] == "ScaledObject":
            yield thing["spec"]["triggers"][0]["metadata"]["query"]


def test_every_metric_that_is_asked_for_is_exported_with_the_labels_that_are_used(exported):
    """By gateway or controller, or recorded by a rule of the same stack."""
    recorded = {rule["record"] for rule in rules(stack_of(BIG, WATCHED)) if "record" in rule}
    known = exported | {name: {"stage"} for name in recorded}
    for query in queries():
        names = set(re.findall(r"\b(?:tercet:|gen_ai_)[a-z0-9_:]+", query))
        assert names
        assert names <= set(known), names - set(known)
        grouped = {label for found in re.findall(r"by \(([^)]*)\)", query) for label in found.split(", ")}
        used = grouped | set(re.findall(r"(\w+)=\"", query))
        allowed = ATTACHED.union(*(known[name] for name in names))
        assert used - {""} <= allowed, f"{used - allowed}: {query}"


def test_the_monitor_finds_the_metrics_ports_of_gateways_and_controller():
    stack = stack_of(BIG, WATCHED)
    spec = named(stack.objects(), "PodMonitor")["spec"]
    (chosen,), (endpoint,) = spec["selector"]["matchExpressions"], spec["podMetricsEndpoints"]
    found = {}
    for thing in stack.objects():
        template = thing["spec"]["template"] if thing["kind"] == "Deployment" else {"metadata": {}}
        component = template["metadata"].get("labels", {}).get(chosen["key"])
        if component in chosen["values"]:
            ports = [port["name"] for c in template["spec"]["containers"] for port in c["ports"]]
            found[component] = endpoint["port"] in ports
    assert found == {"gateway": True, "controller": True}


def test_nothing_needs_the_operator_unless_somebody_says_that_it_is_there():
    assert not [t for t in stack_of(BIG).objects() if "monitoring" in t["apiVersion"]]
    only_dashboards = stack_of(BIG, {"observability": {}})
    assert not [t for t in only_dashboards.objects() if "monitoring" in t["apiVersion"]]
    assert named(only_dashboards.objects(), "ConfigMap", "dashboards")


def test_the_operator_s_prometheus_and_grafana_find_theirs_by_labels():
    observability = {
        "monitors": True,
        "monitor_labels": {"release": "kps"},
        "dashboard_labels": {"show": "1"},
    }
    stack = stack_of(BIG, {"observability": observability})
    for thing in stack.objects():
        if "monitoring" in thing["apiVersion"]:
            assert thing["metadata"]["labels"]["release"] == "kps"
    assert named(stack.objects(), "ConfigMap", "dashboards")["metadata"]["labels"]["show"] == "1"


def test_the_dashboard_is_one_that_grafana_loads():
    """Panels side by side without overlap, each with its queries; every variable in use is defined."""
    data = named(stack_of(BIG, {"observability": {}}).objects(), "ConfigMap", "dashboards")["data"]
    board = json.loads(data["tercet.json"])
    assert len({(p["gridPos"]["x"], p["gridPos"]["y"]) for p in board["panels"]}) == len(PANELS)
    assert all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 and p["targets"] for p in board["panels"])
    used = set(re.findall(r"\$\{?(\w+)", data["tercet.json"])) - {"__rate_interval"}
    assert used == {variable["name"] for variable in board["templating"]["list"]}


@pytest.mark.parametrize(
    ("attainment", "limits"),
    [
        pytest.param(0.99, ["0.144", "0.06", "0.03", "0.01"], id="strict"),
        pytest.param(0.9, ["0.6", "0.3", "0.1"], id="loose: 14.4 times a tenth is more than all"),
    ],
)
def test_alerts_are_the_workbook_s_rows_that_can_come_true(attainment, limits):
    """Both windows of a row have to burn; the summary is of the long one."""
    (group,) = alert_rules("svc", attainment, "ns", {})["spec"]["groups"]
    for rule, limit, burn in zip(group["rules"], limits, BURNS[-len(limits) :], strict=True):
        chosen = '{namespace="ns", tercet_service="svc"}'
        both = [f"{recorded_misses(window)}{chosen} > {limit}" for window in (burn.long, burn.short)]
        assert rule["expr"] == " and ".join(both)
        assert rule["labels"]["severity"] == burn.severity


def test_the_name_for_the_adapter_is_that_of_the_recording():
    """The documented rule of prometheus-adapter maps one to the other."""
    assert LOAD_METRIC.removesuffix(":sum").replace(":", "_") == ADAPTED_METRIC
