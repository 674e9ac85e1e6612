"""Counters and histograms of what happens in an emulated engine, under vLLM's names."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from stages.emulator.sequence import Sequence

LABELS = ("model_name", "engine")
ENGINE = "0"

_REASONS = ("stop", "length", "abort", "error", "repetition")
_SOURCES = ("local_compute", "local_cache_hit", "external_kv_transfer")
_TTFT_S = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
    640,
)
_ITL_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_LATENCY_S = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
_STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384)


class EngineMetrics:
    """What is counted as it happens.

    Attributes:
        registry: Of all metrics of the engine.
    """

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        self._model = model
        self._prompt_tokens = self._counters("prompt_tokens", "Prompt tokens processed.")[""]
        self._generation_tokens = self._counters("generation_tokens", "Tokens generated.")[""]
        self._by_source = self._counters("prompt_tokens_by_source", "By where from.", "source", _SOURCES)
        self._success = self._counters("request_success", "Requests ended.", "finished_reason", _REASONS)
        self._ttft = self._histogram("time_to_first_token_seconds", "Time to first token.", _TTFT_S)
        self._itl = self._histogram("inter_token_latency_seconds", "Time between tokens.", _ITL_S)
        self._tpot = self._histogram("request_time_per_output_token_seconds", "Its mean.", _ITL_S)
        self._e2e = self._histogram("e2e_request_latency_seconds", "Whole requests.", _LATENCY_S)
        self._queue = self._histogram("request_queue_time_seconds", "Until let in.", _LATENCY_S)
        self._prefill = self._histogram("request_prefill_time_seconds", "From then to a token.", _LATENCY_S)
        self._decode = self._histogram("request_decode_time_seconds", "From the first token on.", _LATENCY_S)
        self._prompt = self._histogram("request_prompt_tokens", "Prompt tokens of requests.", _TOKENS)
        self._generation = self._histogram("request_generation_tokens", "Tokens of answers.", _TOKENS)
        self._step = self._histogram("iteration_tokens_total", "Tokens of steps.", _STEP_TOKENS)

    def step(self, tokens: int) -> None:
        """A step has computed so many tokens."""
        self._step.observe(tokens)

    def first_token(self, sequence: Sequence) -> None:
        """A request has its first token."""
        prompt_tokens = len(sequence.work.prompt)
        self._prompt_tokens.inc(prompt_tokens)
        self._by_source["external_kv_transfer" if sequence.fetched else "local_compute"].inc(prompt_tokens)
        self._ttft.observe(sequence.first_s - sequence.arrived_s)
        self._queue.observe(sequence.admitted_s - sequence.arrived_s)
        self._prefill.observe(sequence.first_s - sequence.admitted_s)

    def next_token(self, seconds: float) -> None:
        """A request has its next token, so long after the one before."""
        self._itl.observe(seconds)

    def ended(self, sequence: Sequence, reason: str, now_s: float) -> None:
        """A request is over."""
        self._success[reason].inc()
        if reason not in ("stop", "length"):
            return
        tokens = len(sequence.tokens)
        decode_s = sequence.last_s - sequence.first_s
        self._generation_tokens.inc(tokens)
        self._prompt.observe(len(sequence.work.prompt))
        self._generation.observe(tokens)
        self._decode.observe(decode_s)
        self._tpot.observe(decode_s / max(1, tokens - 1))
        self._e2e.observe(now_s - sequence.arrived_s)

    def _counters(
        self, name: str, text: str, label: str = "", values: tuple[str, ...] = ("",)
    ) -> dict[str, Counter]:
        """Return a counter for each value of a label, at 0 from the start; one under "" without a label."""
        labels = (*LABELS, label) if label else LABELS
        counter = Counter(f"vllm:{name}", text, labels, registry=self.registry)
        return {value: counter.labels(self._model, ENGINE, *([value] if label else [])) for value in values}

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        histogram = Histogram(f"vllm:{name}", text, LABELS, registry=self.registry, buckets=buckets)
        return histogram.labels(self._model, ENGINE)
