"""What a controller exports of its decisions."""

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

    def decided(self, decision: Decision) -> None:
        """Count a decision's plans."""
        for service, plan in decision.plans.items():
            for stage, planned in plan.stages.items():
                self._wanted.labels(service, stage).set(planned.replicas)
                self._decisions.labels(service, stage, planned.reason).inc()
