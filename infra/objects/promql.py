"""Queries on what gateways and the controller export, by `orchestrator.metrics` and `control_metrics`.

Every gateway of a service exports the whole registry, so gauges of replicas are taken once by `max by`.
"""

from orchestrator.kube_names import METRIC_SERVICE

SERVICE_LABELS = ("namespace", METRIC_SERVICE)


def selector(**labels: str) -> str:
    """Return a label selector of PromQL; values may be variables of a dashboard."""
    return "{" + ", ".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


def by(*labels: str) -> str:
    """Return a grouping clause."""
    return f"by ({', '.join(labels)})"


def once(gauge: str, chosen: str = "", labels: tuple[str, ...] = ()) -> str:
    """Return a gauge of replicas as seen by whichever gateway sees most, by stage and replica."""
    return f"max {by(*labels, 'stage', 'replica')} ({gauge}{chosen})"


def per_s(counter: str, chosen: str, *labels: str, window: str = "$__rate_interval") -> str:
    """Return a counter's rate over all gateways."""
    return f"sum {by(*labels)} (rate({counter}{chosen}[{window}]))"


def quantile(fraction: float, histogram: str, chosen: str, *labels: str) -> str:
    """Return a quantile of a histogram over all gateways."""
    return f"histogram_quantile({fraction:g}, {per_s(f'{histogram}_bucket', chosen, 'le', *labels)})"


def stage_load() -> str:
    """Return the hops of each stage that wait or run."""
    running = once("tercet:replica_in_flight", labels=SERVICE_LABELS)
    # `or` keeps both sides, as no series of one has the labels of one of the other.
    waiting = f"sum {by(*SERVICE_LABELS, 'stage', 'pod')} (tercet:num_requests_waiting)"
    return f"sum {by(*SERVICE_LABELS, 'stage')} ({running} or {waiting})"


def miss_ratio(window: str) -> str:
    """Return which part of the judged requests missed their targets."""
    judged, attained = (
        per_s(f"tercet:slo_{name}_requests_total", "", *SERVICE_LABELS, window=window)
        for name in ("judged", "attained")
    )
    return f"1 - {attained} / {judged}"
