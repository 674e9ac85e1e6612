"""Alerts on how fast a service uses up what `slo.attainment` leaves to it, and the recordings they go by.

Source: Google's Site Reliability Workbook (2018), chapter 5, "Alerting on SLOs": multiwindow, multi-burn-rate
alerts, with its table for a budget of 30 days. The short window has an alert end soon after its cause.
"""

from typing import NamedTuple

from infra.objects.names import Object, metadata, object_name
from infra.objects.promql import miss_ratio, selector, stage_load
from infra.objects.scalers import LOAD_METRIC
from orchestrator.kube_names import METRIC_SERVICE


class Burn(NamedTuple):
    """One row of the table: the budget is used up `factor` times as fast as 30 days allow."""

    long: str
    short: str
    factor: float
    severity: str


BURNS = (
    Burn("1h", "5m", 14.4, "page"),
    Burn("6h", "30m", 6.0, "page"),
    Burn("1d", "2h", 3.0, "ticket"),
    Burn("3d", "6h", 1.0, "ticket"),
)

_WINDOWS = tuple(dict.fromkeys(window for burn in BURNS for window in (burn.short, burn.long)))


def recorded_misses(window: str) -> str:
    """Return the name under which the ratio of misses is recorded."""
    return f"tercet:slo_misses:ratio_rate{window}"


def recording_rules(namespace: str, labels: dict[str, str]) -> Object:
    """Return a PrometheusRule with what alerts, KEDA and HPAs of the stack go by."""
    rules = [{"record": recorded_misses(window), "expr": miss_ratio(window)} for window in _WINDOWS]
    return _rule("recordings", namespace, labels, [{"record": LOAD_METRIC, "expr": stage_load()}, *rules])


def alert_rules(service: str, attainment: float, namespace: str, labels: dict[str, str]) -> Object:
    """Return a PrometheusRule that alerts while a service misses its targets too often."""
    budget = 1.0 - attainment
    # A loose target leaves so much that the fastest burns are more than all requests.
    rules = [_alert(burn, service, budget, namespace) for burn in BURNS if burn.factor * budget < 1.0]
    return _rule(object_name(service, "slo"), namespace, labels, rules)


def _alert(burn: Burn, service: str, budget: float, namespace: str) -> Object:
    chosen = selector(namespace=namespace, **{METRIC_SERVICE: service})
    limit = f"{burn.factor * budget:.6g}"
    both = [f"{recorded_misses(window)}{chosen} > {limit}" for window in (burn.long, burn.short)]
    return {
        "alert": "TercetSloBurn",
        "expr": " and ".join(both),
        "labels": {"severity": burn.severity, "window": burn.long},
        "annotations": {
            "summary": f"{service} spends its error budget at {burn.factor:g} times the pace of 30 days",
            "description": f"{{{{ $value | humanizePercentage }}}} of the requests of the last {burn.long} "
            f"missed their targets or were refused; slo.attainment leaves {budget:.4g}.",
        },
    }


def _rule(name: str, namespace: str, labels: dict[str, str], rules: list[Object]) -> Object:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": metadata(name, namespace, labels),
        "spec": {"groups": [{"name": f"{namespace}-{name}", "rules": rules}]},
    }
