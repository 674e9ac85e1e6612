"""What a server's /metrics say of its load, under the names of several versions."""

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLoad:
    """Load of one server; what it does not say is 0.

    Attributes:
        waiting: Requests in its queue.
        running: Requests in its batch.
        kv_tokens: Positions of its KV cache.
        kv_usage: Fraction of them in use, 0 to 1.
        cache_queries: Tokens looked up in its prefix cache so far; in that of embeddings, if it encodes.
        cache_hits: Of those, the tokens found.
        busy_s: Seconds so far in which it has encoded.
    """

    waiting: int = 0
    running: int = 0
    kv_tokens: int = 0
    kv_usage: float = 0.0
    cache_queries: int = 0
    cache_hits: int = 0
    busy_s: float = 0.0


def read_load(metrics: str) -> ServerLoad:
    """Return the load out of the text of /metrics. Data-parallel engines of one server are added up."""
    values: dict[str, list[float]] = {}
    kv_tokens = 0
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            if sample.name == "vllm:cache_config_info":
                kv_tokens += _positions(sample.labels)
            elif sample.name in _READ:
                values.setdefault(sample.name, []).append(sample.value)
    usage = _first(values, "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
    return ServerLoad(
        waiting=int(sum(_first(values, "vllm:num_requests_waiting"))),
        running=int(sum(_first(values, "vllm:num_requests_running"))),
        kv_tokens=kv_tokens,
        kv_usage=sum(usage) / max(1, len(usage)),
        cache_queries=int(sum(_first(values, *_QUERIES))),
        cache_hits=int(sum(_first(values, *_HITS))),
    )


def read_sglang_load(metrics: str) -> ServerLoad:
    """Return the load out of the text of SGLang's /metrics."""
    values = _sums(metrics)
    return ServerLoad(
        waiting=int(values.get("sglang:num_queue_reqs", 0)),
        running=int(values.get("sglang:num_running_reqs", 0)),
        kv_tokens=int(values.get("sglang:max_total_num_tokens", 0)),
        kv_usage=values.get("sglang:token_usage", 0.0),
    )


def read_encoder_load(metrics: str) -> ServerLoad:
    """Return the load out of the text of the /metrics of an SGLang server that encodes.

    It has no gauge of what it has in hand: that is what came in and has not ended.
    """
    values = _sums(metrics)
    received = values.get("sglang:encoder_requests_received_total", 0.0)
    return ServerLoad(
        running=max(0, int(received - values.get("sglang:encoder_requests_total", 0.0))),
        cache_queries=int(values.get("sglang:encoder_cache_total_tokens_total", 0)),
        cache_hits=int(values.get("sglang:encoder_cache_hit_tokens_total", 0)),
        busy_s=values.get("sglang:encoder_model_forward_seconds_sum", 0.0),
    )


def _sums(metrics: str) -> Mapping[str, float]:
    """Return the samples by name, those of all labels added up."""
    values: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            values[sample.name] = values.get(sample.name, 0.0) + sample.value
    return values


def _positions(labels: Mapping[str, str]) -> int:
    def number(name: str) -> int:
        value = labels.get(name, "")
        return int(value) if value.isdigit() else 0

    return (number("num_gpu_blocks") or number("num_cpu_blocks")) * number("block_size")


def _first(values: Mapping[str, list[float]], *names: str) -> list[float]:
    return next((values[name] for name in names if name in values), [])


_QUERIES = ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total")
_HITS = ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total")
_READ = frozenset(
    {
        *("vllm:num_requests_waiting", "vllm:num_requests_running"),
        *("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        *_QUERIES,
        *_HITS,
    }
)
