"""Scalers of a pool other than the controller: an HPA, or KEDA's ScaledObject. Both go by Prometheus.

The load of a stage is its hops that wait or run. One replica's share is its slots times the utilisation that
the scaling policy `hpa` aims at, which is the same controller in the simulator.
"""

from infra.objects.names import Object, metadata
from infra.objects.pool_args import StagePoolArgs
from infra.objects.promql import selector
from orchestrator.core.scaling.hpa import HpaParams
from orchestrator.core.scaling.params import of_stage
from orchestrator.kube_names import METRIC_SERVICE

LOAD_METRIC = "tercet:stage_load:sum"
"""Recorded by the stack's PrometheusRule: gateways export its parts."""

ADAPTED_METRIC = "tercet_stage_load"
"""The same under the name that prometheus-adapter has to give it; docs/stack.md has the rule."""

_POLL_S = 15
_WINDOW_MAX_S = 3600  # Kubernetes takes no more


def scaler_objects(args: StagePoolArgs) -> list[Object]:
    """Return what sets the pool's count, if that is somebody else than the controller."""
    if args.autoscaler == "hpa":
        return [_hpa(args)]
    if args.autoscaler == "keda":
        return [_scaled_object(args)]
    return []


def _params(args: StagePoolArgs) -> HpaParams:
    given = args.policy.scaling.params
    return given if isinstance(given, HpaParams) else HpaParams()


def _milli_hops(args: StagePoolArgs) -> int:
    """Return thousandths of hops that one replica should have."""
    return round(1000 * args.of_stage.batch * of_stage(_params(args), "target", args.stage))


def _behavior(args: StagePoolArgs) -> Object:
    window_s = min(_WINDOW_MAX_S, round(_params(args).stabilise_s))
    return {"scaleDown": {"stabilizationWindowSeconds": window_s}}


def _labels(args: StagePoolArgs) -> dict[str, str]:
    return {METRIC_SERVICE: args.policy.service, "stage": args.stage.value}


def _hpa(args: StagePoolArgs) -> Object:
    metric = {"name": ADAPTED_METRIC, "selector": {"matchLabels": _labels(args)}}
    target = {"type": "AverageValue", "averageValue": f"{_milli_hops(args)}m"}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata(args.name, args.namespace, args.labels),
        "spec": {
            "scaleTargetRef": args.target,
            # None at all is behind a feature gate of Kubernetes.
            "minReplicas": max(1, args.of_stage.min),
            "maxReplicas": args.of_stage.max,
            "metrics": [{"type": "External", "external": {"metric": metric, "target": target}}],
            "behavior": _behavior(args),
        },
    }


def _scaled_object(args: StagePoolArgs) -> Object:
    chosen = selector(namespace=args.namespace, **_labels(args))
    trigger = {
        "type": "prometheus",
        "metricType": "AverageValue",
        "metadata": {
            "serverAddress": args.prometheus,
            "query": f"sum({LOAD_METRIC}{chosen})",
            "threshold": f"{_milli_hops(args) / 1000:g}",
            # Nothing known of the load is no reason to shrink.
            "ignoreNullValues": "false",
        },
    }
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": metadata(args.name, args.namespace, args.labels),
        "spec": {
            "scaleTargetRef": args.target,
            "minReplicaCount": args.of_stage.min,
            "maxReplicaCount": args.of_stage.max,
            "pollingInterval": _POLL_S,
            "cooldownPeriod": round(_params(args).stabilise_s),
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior(args)}},
            "triggers": [trigger],
        },
    }
