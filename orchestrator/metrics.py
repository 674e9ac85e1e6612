"""What a gateway counts. Names follow vLLM's (`tercet:` for `vllm:`) and OpenTelemetry's for GenAI."""

from collections.abc import Iterator
from functools import cache
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from orchestrator.core.types import Reason, StageTag
from orchestrator.counting import Counting
from orchestrator.fleet import Fleet
from orchestrator.ports import RegisteredReplica
from stages.types import Modality, Stage

_LATENCY_S = (0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5.0, 10.0, 30.0, 60.0)
_TOKEN_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)


MetricT = TypeVar("MetricT", bound=MetricWrapperBase)


@cache
def _child(metric: MetricT, *labels: str) -> MetricT:
    """Return the metric of these labels, from closed sets; looking it up anew costs more than counting."""
    return metric.labels(*labels)


class Metrics:
    """Counters and histograms of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("tercet:request", "Requests ended", ["status"], registry=self.registry)
        self.success = Counter(
            "tercet:request_success", "Requests answered", ["finished_reason"], registry=self.registry
        )
        self.rejections = Counter(
            "tercet:admission_rejections", "Requests refused", ["code"], registry=self.registry
        )
        self.admissions = Counter(
            "tercet:admission", "Admission decisions", ["reason"], registry=self.registry
        )
        self.prompt_tokens = Counter(
            "tercet:prompt_tokens", "Prompt tokens of answered requests", registry=self.registry
        )
        self.generation_tokens = Counter(
            "tercet:generation_tokens", "Tokens sent to clients", registry=self.registry
        )
        self.arrivals = Counter(
            "tercet:stage_arrivals", "Hops that asked for a replica", ["stage"], registry=self.registry
        )
        self.tokens = Counter(
            "tercet:stage_tokens",
            "Work done: image and prompt tokens not cached, output tokens",
            ["stage"],
            registry=self.registry,
        )
        self.retries = Counter(
            "tercet:stage_retries", "Hops attempted again", ["stage"], registry=self.registry
        )
        self.routes = Counter(
            "tercet:route", "Routing decisions", ["stage", "reason"], registry=self.registry
        )
        self.running = Gauge("tercet:num_requests_running", "Requests in progress", registry=self.registry)
        self.wait_s = Histogram(
            "tercet:stage_wait_seconds",
            "Waiting for a credit",
            ["stage"],
            buckets=_LATENCY_S,
            registry=self.registry,
        )
        self.work_s = Histogram(
            "tercet:stage_work_seconds",
            "Dispatch to result",
            ["stage"],
            buckets=_LATENCY_S,
            registry=self.registry,
        )
        self.ttft_s = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Arrival to first token",
            ["modality"],
            buckets=_LATENCY_S,
            registry=self.registry,
        )
        self.tpot_s = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Mean per output token",
            ["modality"],
            buckets=_TOKEN_S,
            registry=self.registry,
        )
        self.duration_s = Histogram(
            "gen_ai_server_request_duration_seconds",
            "Arrival to end",
            buckets=_LATENCY_S,
            registry=self.registry,
        )

    def admitted(self, reason: Reason) -> None:
        """Count an admission decision, whichever way it went."""
        _child(self.admissions, reason).inc()

    def arrived(self, stage: Stage, *, again: bool) -> None:
        """See `orchestrator.ports.Observer`, which this class is."""
        _child(self.arrivals, stage).inc()
        if again:
            _child(self.retries, stage).inc()

    def routed(self, stage: Stage, reason: Reason) -> None:
        """See `Observer.routed`."""
        _child(self.routes, stage, reason).inc()

    def waited(self, stage: Stage, wait_s: float) -> None:
        """See `Observer.waited`."""
        _child(self.wait_s, stage).observe(wait_s)

    def did(self, stage: Stage, tokens: int, cached_tokens: int = 0) -> None:
        """See `Observer.did`."""
        _child(self.tokens, stage).inc(tokens)

    def worked(self, stage: Stage, work_s: float) -> None:
        """See `Observer.worked`."""
        _child(self.work_s, stage).observe(work_s)

    def watch(self, fleet: Fleet, counting: Counting) -> None:
        """Export the fleet's state and what is counted for control, read at each scrape."""
        self.registry.register(_FleetCollector(fleet))
        self.registry.register(_CountCollector(counting))


def modality_of(tag: StageTag) -> str:
    """Return what a request carries besides text, such as `image`; `text` for text alone."""
    return "+".join(sorted(tag.modalities - {Modality.TEXT})) or Modality.TEXT


class _CountCollector(Collector):
    """How requests did against `slo`, as control has it."""

    def __init__(self, counting: Counting) -> None:
        self._counting = counting

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        slo = self._counting.slo()
        yield _total("tercet:slo_offered_requests", "Requests that asked to be let in", slo.offered)
        yield _total("tercet:slo_judged_requests", "Of those, the ones that ended", slo.judged)
        yield _total("tercet:slo_attained_requests", "Of those, the ones within their targets", slo.attained)


class _FleetCollector(Collector):
    """Queues and replicas as they are when asked."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        waiting = GaugeMetricFamily(
            "tercet:num_requests_waiting", "Hops waiting for a credit", labels=["stage"]
        )
        for stage, queue in self._fleet.queues.items():
            waiting.add_metric([stage], queue.depth)
        yield waiting
        memory = GaugeMetricFamily("tercet:ledger_memory_usage_perc", "Redis's memory in use, 0 to 1")
        memory.add_metric([], self._fleet.registry.snapshot.memory_usage)
        yield memory
        labels = ["stage", "replica"]
        gauges = {
            "queued_tokens": GaugeMetricFamily(
                "tercet:replica_queued_tokens", "Tokens of accepted work not started", labels=labels
            ),
            "running_tokens": GaugeMetricFamily(
                "tercet:replica_running_tokens", "Tokens of work in progress, not yet done", labels=labels
            ),
            "in_flight": GaugeMetricFamily("tercet:replica_in_flight", "Credits in use", labels=labels),
            "batch_size": GaugeMetricFamily("tercet:replica_batch_size", "Requests in a step", labels=labels),
            "rate": GaugeMetricFamily(
                "tercet:replica_tokens_per_second", "Tokens per busy second", labels=labels
            ),
            "kv": GaugeMetricFamily("tercet:kv_cache_usage_perc", "KV blocks in use, 0 to 1", labels=labels),
        }
        counters = {
            Stage.ENCODE: _cache_counters("tercet:mm_cache", labels),
            Stage.PREFILL: _cache_counters("tercet:prefix_cache", labels),
        }
        for entry in self._fleet.registry.snapshot.replicas:
            at = [str(entry.replica.stage), entry.replica.replica_id]
            for name in ("queued_tokens", "running_tokens"):
                gauges[name].add_metric(at, entry.load.get(name, 0))
            gauges["in_flight"].add_metric(at, entry.replica.in_flight)
            gauges["batch_size"].add_metric(at, entry.load.get("batch_size", 0))
            gauges["rate"].add_metric(at, entry.replica.rate_tokens_per_s)
            gauges["kv"].add_metric(at, kv_usage(entry))
            if entry.replica.stage in counters:
                queries, hits = counters[entry.replica.stage]
                queries.add_metric(at, entry.load.get("cache_queries", 0))
                hits.add_metric(at, entry.load.get("cache_hits", 0))
        yield from gauges.values()
        for pair in counters.values():
            yield from pair


def kv_usage(entry: RegisteredReplica) -> float:
    """Return the fraction of a replica's KV blocks in use, 0.0 for encode."""
    total = entry.load.get("total_kv_bytes", 0)
    return 1.0 - float(entry.load["free_kv_bytes"]) / total if total else 0.0


def _total(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value=value)


def _cache_counters(name: str, labels: list[str]) -> tuple[CounterMetricFamily, CounterMetricFamily]:
    queries = CounterMetricFamily(f"{name}_queries", "Tokens looked up", labels=labels)
    return queries, CounterMetricFamily(f"{name}_hits", "Tokens found", labels=labels)
