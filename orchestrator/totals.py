"""Counts what a service is asked for and gets done; the gateway and the simulator count alike."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.core.control_types import ServiceSample, StageSample
from orchestrator.core.types import StageTag
from stages.types import Stage

LATENCY_WINDOW_S = 60.0
"""Percentiles of latency are over so many seconds past."""
_LATENCIES_AT_MOST = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StageNow:
    """What cannot be counted but has to be looked at.

    Attributes:
        busy_s: Total replica-seconds with work, since the service began.
    """

    waiting_units: float = 0.0
    waiting_jobs: int = 0
    running_jobs: int = 0
    kv_usage: float = 0.0
    busy_s: float = 0.0


@dataclass(slots=True)
class _StageTotals:
    """One stage's totals; `bin_*` as in `StageSample`, the window not yet over apart."""

    bin_s: float
    offered_units: float = 0.0
    offered_jobs: int = 0
    done_units: float = 0.0
    waited_s: float = 0.0
    started_jobs: int = 0
    bins: int = 0
    bin_units: float = 0.0
    bin_units_squared: float = 0.0
    open_units: float = 0.0

    def offer(self, units: float, jobs: int, now_s: float) -> None:
        self.close_bins(now_s)
        self.offered_units += units
        self.offered_jobs += jobs
        self.open_units += units

    def close_bins(self, now_s: float) -> None:
        over = int(now_s / self.bin_s)
        if over > self.bins:
            self.bin_units += self.open_units
            self.bin_units_squared += self.open_units * self.open_units
            self.open_units = 0.0
            self.bins = over


@dataclass(slots=True)
class ServiceTotals:
    """Totals of one service since it began, from one counter's point of view.

    Attributes:
        budgets_s: Each stage's `budget_s`: the window over which variability of work is taken.
    """

    budgets_s: Mapping[Stage, float]
    requests: int = 0
    text_tokens: float = 0.0
    image_tokens: float = 0.0
    image_hit_tokens: float = 0.0
    prompt_tokens: float = 0.0
    prompt_hit_tokens: float = 0.0
    finished: int = 0
    output_tokens: float = 0.0
    judged: int = 0
    attained: int = 0
    _stages: dict[Stage, _StageTotals] = field(init=False)
    _ttfts: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_LATENCIES_AT_MOST))
    _tpots: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_LATENCIES_AT_MOST))

    def __post_init__(self) -> None:
        self._stages = {stage: _StageTotals(self.budgets_s[stage]) for stage in Stage}

    def offered(self, tag: StageTag, now_s: float) -> None:
        """A request arrived; it is counted before admission, and once."""
        images = tag.encode_tokens
        self.requests += 1
        self.image_tokens += images
        self.text_tokens += tag.context_tokens - images
        if images:
            self._stages[Stage.ENCODE].offer(images, len(tag.item_tokens), now_s)
        self._stages[Stage.PREFILL].offer(tag.prefill_tokens, 1, now_s)

    def started(self, stage: Stage, waited_s: float) -> None:
        """A job got its replica after waiting."""
        totals = self._stages[stage]
        totals.waited_s += waited_s
        totals.started_jobs += 1

    def done(self, stage: Stage, units: float) -> None:
        """A job is done; `units` is the work that it took, without what a cache supplied."""
        self._stages[stage].done_units += units

    def image_hit(self, tokens: int) -> None:
        """The embedding cache supplied an image."""
        self.image_hit_tokens += tokens

    def prefilled(self, tokens: int, cached_tokens: int) -> None:
        """A prompt of so many tokens was prefilled; of `cached_tokens` the KV was there."""
        self.prompt_tokens += tokens
        self.prompt_hit_tokens += cached_tokens

    def first_token(self, ttft_ratio: float, now_s: float) -> None:
        """A first token was sent; its time over its target."""
        self._ttfts.append((now_s, ttft_ratio))

    def completed(self, output_tokens: int, tpot_ratio: float, attained: bool, now_s: float) -> None:
        """A completion ended well; its mean time per output token over its target."""
        self.finished += 1
        self.output_tokens += output_tokens
        self.judged += 1
        self.attained += attained
        self._tpots.append((now_s, tpot_ratio))
        self._stages[Stage.DECODE].done_units += output_tokens

    def missed(self) -> None:
        """A request was refused, given up or failed."""
        self.judged += 1

    def sample(self, at_s: float, now: Mapping[Stage, StageNow]) -> ServiceSample:
        """Return the totals and what is to be seen at this moment."""
        return ServiceSample(
            at_s=at_s,
            requests=self.requests,
            text_tokens=self.text_tokens,
            image_tokens=self.image_tokens,
            image_hit_tokens=self.image_hit_tokens,
            prompt_tokens=self.prompt_tokens,
            prompt_hit_tokens=self.prompt_hit_tokens,
            finished=self.finished,
            output_tokens=self.output_tokens,
            judged=self.judged,
            attained=self.attained,
            ttft_ratio=_p99(self._ttfts, at_s),
            tpot_ratio=_p99(self._tpots, at_s),
            stages={stage: self._stage_sample(stage, at_s, now[stage]) for stage in Stage},
        )

    def _stage_sample(self, stage: Stage, at_s: float, now: StageNow) -> StageSample:
        totals = self._stages[stage]
        totals.close_bins(at_s)
        return StageSample(
            offered_units=totals.offered_units,
            offered_jobs=totals.offered_jobs,
            done_units=totals.done_units,
            waited_s=totals.waited_s,
            started_jobs=totals.started_jobs,
            busy_s=now.busy_s,
            bins=totals.bins,
            bin_units=totals.bin_units,
            bin_units_squared=totals.bin_units_squared,
            waiting_units=now.waiting_units,
            waiting_jobs=now.waiting_jobs,
            running_jobs=now.running_jobs,
            kv_usage=now.kv_usage,
        )


def _p99(latencies: deque[tuple[float, float]], now_s: float) -> float | None:
    """Return the 99th percentile of the last `LATENCY_WINDOW_S`, by the nearest rank."""
    while latencies and latencies[0][0] < now_s - LATENCY_WINDOW_S:
        latencies.popleft()
    if not latencies:
        return None
    ratios = sorted(ratio for _, ratio in latencies)
    return ratios[min(len(ratios) - 1, int(0.99 * len(ratios)))]
