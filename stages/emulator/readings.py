"""What an emulated engine says of itself when asked: gauges of /metrics, and its state for tests."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from stages.emulator.engine import Engine
from stages.emulator.metrics import ENGINE, LABELS
from stages.emulator.sequence import Phase

Read = Callable[[Engine], float]


def kv_usage(engine: Engine) -> float:
    """Return the fraction of KV blocks that are held, by requests or leases."""
    return engine.pool.used / engine.pool.total


def waiting(engine: Engine) -> int:
    """Return the requests that wait, for room or for a KV cache to come."""
    return len(engine.batch.waiting) + engine.batch.count(Phase.FETCHING)


def state_of(engine: Engine) -> dict[str, Any]:
    """Return what an engine holds and has done; the first six are 0 when nothing is left allocated."""
    leases, store, batch = engine.leases, engine.store, engine.batch
    return {
        "running": batch.running,
        "waiting": len(batch.waiting),
        "fetching": batch.count(Phase.FETCHING),
        "blocks_used": engine.pool.used,
        "leases": len(leases),
        "blocks_leased": leases.blocks,
        "blocks_total": engine.pool.total,
        "lease_counts": {
            "pulled": leases.pulled,
            "expired": leases.expired,
            "released": leases.released,
            "refused": leases.refused,
        },
        "fetches": engine.fetches,
        "failed_fetches": engine.failed_fetches,
        "preemptions": batch.preemptions,
        "encoder": {
            "encoded": engine.encoded,
            "saved": store.saved,
            "hits": store.hits,
            "misses": store.misses,
        },
        "requests": dict(engine.ended),
        "late_s": engine.late_s,
    }


class Readings(Collector):
    """Gauges and counters that are read when /metrics is."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        for name, (text, reads) in _READS.items():
            family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            label = [reads[0][0].partition("=")[0]] if reads[0][0] else []
            metric = family(f"vllm:{name}", text, labels=[*LABELS, *label])
            for labelled, read in reads:
                value = [labelled.partition("=")[2]] if label else []
                metric.add_metric([self._engine.config.model, ENGINE, *value], read(self._engine))
            yield metric
        yield self._cache_config()

    def _cache_config(self) -> Metric:
        config = self._engine.config
        facts = {
            "block_size": config.block_size,
            "cache_dtype": "auto",
            "enable_prefix_caching": False,
            "engine": ENGINE,
            "kv_cache_size_tokens": config.blocks * config.block_size,
            "num_cpu_blocks": None,
            "num_gpu_blocks": config.blocks,
        }
        metric = GaugeMetricFamily("vllm:cache_config_info", "Of the KV cache.", labels=list(facts))
        metric.add_metric([str(fact) for fact in facts.values()], 1.0)
        return metric


class SglangReadings(Collector):
    """What SGLang's /metrics say with `--enable-metrics`, as far as anybody reads it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        for name, (text, read) in _SGLANG_READS.items():
            metric = GaugeMetricFamily(f"sglang:{name}", text, labels=["model_name"])
            metric.add_metric([self._engine.config.model], read(self._engine))
            yield metric


class SglangEncoderReadings(Collector):
    """What /metrics of an SGLang encoder say with `--enable-metrics`, as far as anybody reads it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        labels = ["model_name", "modality"]
        mine = [self._engine.config.model, "image"]
        received = CounterMetricFamily("sglang:encoder_requests_received", "That came.", labels=labels)
        received.add_metric(mine, self._engine.taken)
        ended = CounterMetricFamily("sglang:encoder_requests", "That ended.", labels=[*labels, "status"])
        for reason, count in self._engine.ended.items():
            ended.add_metric([*mine, "success" if reason == "stop" else "error"], count)
        forward = SummaryMetricFamily("sglang:encoder_model_forward_seconds", "Of steps.", labels=labels)
        forward.add_metric(mine, self._engine.encoded, self._engine.encoding_s)
        yield from (received, ended, forward)


_SGLANG_READS: Mapping[str, tuple[str, Read]] = {
    "num_running_reqs": ("Requests in batches.", lambda e: e.batch.running),
    "num_queue_reqs": ("Requests that wait.", lambda e: len(e.batch.waiting)),
    "num_used_tokens": ("Tokens in the KV cache.", lambda e: e.pool.used * e.config.block_size),
    "token_usage": ("KV cache in use; 1 is all.", kv_usage),
    "max_total_num_tokens": ("Of the KV cache.", lambda e: e.config.blocks * e.config.block_size),
    "num_prefill_inflight_queue_reqs": ("KV caches that wait for decode.", lambda e: len(e.leases)),
    "num_decode_transfer_queue_reqs": (
        "KV caches that are awaited.",
        lambda e: e.batch.count(Phase.FETCHING),
    ),
}


def _zero(engine: Engine) -> float:
    return 0.0


_READS: Mapping[str, tuple[str, list[tuple[str, Read]]]] = {
    "num_requests_running": ("Requests in batches.", [("", lambda e: e.batch.running)]),
    "num_requests_waiting": ("Requests that wait.", [("", waiting)]),
    "num_requests_waiting_by_reason": (
        "Of those, for room, and for a KV cache to come.",
        [
            ("reason=capacity", lambda e: len(e.batch.waiting)),
            ("reason=deferred", lambda e: e.batch.count(Phase.FETCHING)),
        ],
    ),
    "kv_cache_usage_perc": ("KV cache in use; 1 is all.", [("", kv_usage)]),
    "engine_sleep_state": (
        "Emulated engines are awake.",
        [
            ("sleep_state=awake", lambda e: 1.0),
            ("sleep_state=weights_offloaded", _zero),
            ("sleep_state=discard_all", _zero),
        ],
    ),
    "prefix_cache_queries_total": ("There is no prefix cache.", [("", _zero)]),
    "prefix_cache_hits_total": ("There is no prefix cache.", [("", _zero)]),
    "mm_cache_queries_total": ("Media looked up.", [("", lambda e: e.media.queries)]),
    "mm_cache_hits_total": ("Media known.", [("", lambda e: e.media.hits)]),
    "num_preemptions_total": ("Requests that started over.", [("", lambda e: e.batch.preemptions)]),
    "nixl_num_failed_transfers_total": ("KV caches not fetched.", [("", lambda e: e.failed_fetches)]),
    "nixl_num_kv_expired_reqs_total": ("Leases that ended unused.", [("", lambda e: e.leases.expired)]),
}
"""By name: what it says, and for each label value, or "", how it is read."""
