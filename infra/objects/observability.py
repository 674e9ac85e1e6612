"""What watches a stack: what Prometheus scrapes and computes, what Grafana shows."""

from collections.abc import Mapping
from dataclasses import dataclass

from infra.objects.dashboard import dashboard_map
from infra.objects.names import COMPONENT, Object, metadata
from infra.objects.slo_rules import alert_rules, recording_rules
from infra.shared_config import ObservabilityConfig
from orchestrator.kube_names import METRIC_SERVICE

MONITORING = "monitoring.coreos.com/v1"
"""What Prometheus Operator adds to a cluster."""

_INTERVAL = "15s"
_INSTANCE = "__meta_kubernetes_pod_label_app_kubernetes_io_instance"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservabilityArgs:
    """Observability of one stack.

    Attributes:
        attainment: `slo.attainment` by service.
    """

    namespace: str
    config: ObservabilityConfig
    attainment: Mapping[str, float]


def observability_objects(args: ObservabilityArgs) -> list[Object]:
    """Return PodMonitor, PrometheusRules and dashboards, as far as they are asked for."""
    config, made = args.config, []
    if config.monitors:
        labels = dict(config.monitor_labels)
        alerts = [
            alert_rules(service, attainment, args.namespace, labels)
            for service, attainment in args.attainment.items()
        ]
        made += [_pod_monitor(args.namespace, labels), recording_rules(args.namespace, labels), *alerts]
    if config.dashboards:
        made.append(dashboard_map(args.namespace, dict(config.dashboard_labels)))
    return made


def _pod_monitor(namespace: str, labels: dict[str, str]) -> Object:
    """Return what has gateways and controller scraped; workers report to gateways, which export for them."""
    chosen = {"key": COMPONENT, "operator": "In", "values": ["gateway", "controller"]}
    # A controller's metrics name the service themselves; without the label on its pod nothing is replaced.
    service = {"sourceLabels": [_INSTANCE], "regex": "(.+)", "targetLabel": METRIC_SERVICE}
    return {
        "apiVersion": MONITORING,
        "kind": "PodMonitor",
        "metadata": metadata("tercet", namespace, labels),
        "spec": {
            "selector": {"matchExpressions": [chosen]},
            "podMetricsEndpoints": [
                {"port": "metrics", "interval": _INTERVAL, "relabelings": [service]},
            ],
        },
    }
