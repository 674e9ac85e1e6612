"""The Grafana dashboard of a stack's services, as JSON that Grafana loads from a ConfigMap."""

import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from infra.objects.names import Object, metadata
from infra.objects.promql import once, per_s, quantile, selector
from orchestrator.kube_names import METRIC_SERVICE

_TTFT = "gen_ai_server_time_to_first_token_seconds"
_TPOT = "gen_ai_server_time_per_output_token_seconds"
_OURS = selector(namespace="$namespace", **{METRIC_SERVICE: "$service"})
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_PANEL_HEIGHT, _COLUMNS, _WIDTH = 8, 3, 24
_SCHEMA = 39  # of Grafana 10 and later, which migrate it upwards themselves


class Panel(NamedTuple):
    """One graph: its queries by legend."""

    title: str
    unit: str
    queries: Mapping[str, str]


def _replicas(stage: str = "") -> str:
    chosen = {"namespace": "$namespace", METRIC_SERVICE: "$service"} | ({"stage": stage} if stage else {})
    return f"count by (stage) ({once('tercet:replica_in_flight', selector(**chosen))})"


def _percentiles(histogram: str) -> dict[str, str]:
    names = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    return {
        f"{name} {{{{modality}}}}": quantile(fraction, histogram, _OURS, "modality")
        for name, fraction in names.items()
    }


def _attained() -> str:
    judged, attained = (per_s(f"tercet:slo_{name}_requests_total", _OURS) for name in ("judged", "attained"))
    return f"{attained} / {judged}"


PANELS = (
    Panel("Requests by status", "reqps", {"{{status}}": per_s("tercet:request_total", _OURS, "status")}),
    Panel("SLO attainment", "percentunit", {"attained of judged": _attained()}),
    Panel("Running requests", "none", {"running": f"sum(tercet:num_requests_running{_OURS})"}),
    Panel(
        "Replicas E:P:D",
        "none",
        {
            "{{stage}}": _replicas(),
            "{{stage}} wanted": f"max by (stage) (tercet:controller_replicas_wanted{_OURS})",
        },
    ),
    Panel(
        "Replicas for each decode replica",
        "none",
        {"{{stage}}": f"{_replicas()} / scalar({_replicas('decode')})"},
    ),
    Panel(
        "Scaling decisions by reason",
        "ops",
        {"{{stage}} {{reason}}": per_s("tercet:controller_decision_total", _OURS, "stage", "reason")},
    ),
    Panel("Time to first token by modality", "s", _percentiles(_TTFT)),
    Panel("Time per output token by modality", "s", _percentiles(_TPOT)),
    Panel(
        "Waiting for a replica, p95",
        "s",
        {"{{stage}}": quantile(0.95, "tercet:stage_wait_seconds", _OURS, "stage")},
    ),
    Panel(
        "Queue of each stage", "none", {"{{stage}}": f"sum by (stage) (tercet:num_requests_waiting{_OURS})"}
    ),
    Panel(
        "Work in progress of each stage",
        "none",
        {"{{stage}}": f"sum by (stage) ({once('tercet:replica_in_flight', _OURS)})"},
    ),
    Panel(
        "KV cache in use",
        "percentunit",
        {"{{stage}}": f"avg by (stage) ({once('tercet:kv_cache_usage_perc', _OURS)})"},
    ),
    Panel("Admission decisions", "reqps", {"{{reason}}": per_s("tercet:admission_total", _OURS, "reason")}),
    Panel(
        "Routing decisions",
        "ops",
        {"{{stage}} {{reason}}": per_s("tercet:route_total", _OURS, "stage", "reason")},
    ),
    Panel("Tokens by stage", "none", {"{{stage}}": per_s("tercet:stage_tokens_total", _OURS, "stage")}),
)


def dashboard_map(namespace: str, labels: dict[str, str]) -> Object:
    """Return the ConfigMap that Grafana finds by its labels."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata("dashboards", namespace, labels),
        "data": {"tercet.json": json.dumps(dashboard(namespace), indent=1)},
    }


def dashboard(namespace: str) -> Object:
    """Return the dashboard."""
    return {
        "uid": f"tercet-{namespace}",
        "title": f"Tercet {namespace}",
        "tags": ["tercet"],
        "schemaVersion": _SCHEMA,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [_datasource(), _constant("namespace", namespace), _services()]},
        "panels": list(_panels()),
    }


def _panels() -> Iterator[Object]:
    width = _WIDTH // _COLUMNS
    for number, panel in enumerate(PANELS):
        row, column = divmod(number, _COLUMNS)
        yield {
            "id": number + 1,
            "type": "timeseries",
            "title": panel.title,
            "datasource": _SOURCE,
            "gridPos": {"x": column * width, "y": row * _PANEL_HEIGHT, "w": width, "h": _PANEL_HEIGHT},
            "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
            "targets": [
                {"refId": chr(ord("A") + at), "expr": query, "legendFormat": legend, "datasource": _SOURCE}
                for at, (legend, query) in enumerate(panel.queries.items())
            ],
        }


def _datasource() -> Object:
    return {"name": "datasource", "type": "datasource", "query": "prometheus"}


def _constant(name: str, value: str) -> Object:
    return {"name": name, "type": "constant", "query": value, "hide": 2}


def _services() -> Object:
    query = f"label_values(tercet:num_requests_waiting{selector(namespace='$namespace')}, {METRIC_SERVICE})"
    return {
        "name": "service",
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": "services"},
        "refresh": 2,
        "sort": 1,
    }
