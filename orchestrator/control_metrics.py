"""What a controller exports of its decisions."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from orchestrator.core.decide import Decision
from orchestrator.kube_names import METRIC_SERVICE


class ControlMetrics:
    """Plans of one controller, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        stage = [METRIC_SERVICE, "stage"]
        self._wanted = Gauge(
            "tercet:controller_replicas_wanted", "Replicas of the last plan", stage, registry=self.registry
        )
        self._decisions = Counter(
            "tercet:controller_decision",
            "Plans, one for each tick",
            [*stage, "reason"],
            registry=self.registry,
        )

        self._shares = Gauge(
            "tercet:controller_cluster_share",
            "Part of a service's requests that a cluster of a federation can take, 0 to 1",
            [METRIC_SERVICE, "cluster"],
            registry=self.registry,
        )

    def decided(self, decision: Decision) -> None:
        """Count a decision's plans."""
        for service, plan in decision.plans.items():
            for stage, planned in plan.stages.items():
                self._wanted.labels(service, stage).set(planned.replicas)
                self._decisions.labels(service, stage, planned.reason).inc()

    def shared(self, shares: Mapping[str, Mapping[str, float]]) -> None:
        """Take in each cluster's share by service."""
        for service, of_clusters in shares.items():
            for cluster, share in of_clusters.items():
                self._shares.labels(service, cluster).set(share)
