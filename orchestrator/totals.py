"""Counts what a service is asked for and gets done; the gateway and the simulator count alike."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from orchestrator.core.counts import Backlog, Count, Windows
from orchestrator.core.observed import ServiceSample, StageSample
from orchestrator.core.types import StageTag
from stages.types import Stage

LATENCY_WINDOW_S = 60.0
"""Percentiles of latency are over so many seconds past."""
_LATENCIES_AT_MOST = 2_000
_WINDOWS_AT_MOST = 64
"""Of those in which work arrived: at the usual budgets of 0.5 s, enough for several ticks of control."""


@dataclass(slots=True)
class _StageTotals:
    """One stage's totals, and what arrived by windows of `window_s`; `window` is the one not yet over."""

    window_s: float
    since: int = 0
    window: int = 0
    offered_units: float = 0.0
    offered_jobs: int = 0
    done_units: float = 0.0
    waited_s: float = 0.0
    started_jobs: int = 0
    open_units: float = 0.0
    over: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_WINDOWS_AT_MOST))

    def offer(self, units: float, jobs: int, now_s: float) -> None:
        self.close_windows(now_s)
        self.offered_units += units
        self.offered_jobs += jobs
        self.open_units += units

    def close_windows(self, now_s: float) -> None:
        window = int(now_s / self.window_s)
        if window > self.window:
            if self.open_units:
                if len(self.over) == _WINDOWS_AT_MOST:
                    self.since = self.over[0][0] + 1
                self.over.append((self.window, self.open_units))
                self.open_units = 0.0
            self.window = window

    def begin_windows(self, window_s: float, now_s: float) -> None:
        """Start anew with the first whole window from now on."""
        self.window_s = window_s
        self.window = int(now_s / window_s)
        self.since = self.window + 1 if now_s else 0
        self.open_units = 0.0
        self.over.clear()


class Verdict(NamedTuple):
    """How a completion did.

    Attributes:
        tpot_s: Mean time per output token after the first.
        attained: Whether it met both targets.
    """

    tpot_s: float
    attained: bool


def judge(due_s: float, first_s: float, end_s: float, output_tokens: int, tpot_s: float) -> Verdict:
    """Return how a completion did. All seconds are of one clock but for the target `tpot_s`.

    Args:
        due_s: When its first token was due.
        first_s: When that was sent.
        end_s: When the last one was.
        output_tokens: Tokens of the completion.
        tpot_s: Target of the mean time per output token.
    """
    mean_s = (end_s - first_s) / max(1, output_tokens - 1)
    return Verdict(mean_s, first_s <= due_s and mean_s <= tpot_s)


def ttft_ratio(arrival_s: float, due_s: float, first_s: float) -> float:
    """Return the time to first token over its target."""
    return (first_s - arrival_s) / (due_s - arrival_s)


@dataclass(slots=True)
class ServiceTotals:
    """Totals of one service since `began_s`, from one counter's point of view.

    Attributes:
        budgets_s: Each stage's `budget_s`: the window over which variability of work is taken.
        began_s: On the clock of all later calls; counters of one service share it.
    """

    budgets_s: Mapping[Stage, float]
    began_s: float = 0.0
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
        self.set_budgets(self.budgets_s, self.began_s)

    def set_budgets(self, budgets_s: Mapping[Stage, float], now_s: float) -> None:
        """Take other budgets: windows begin anew, totals go on."""
        self.budgets_s = budgets_s
        for stage, totals in self._stages.items():
            totals.begin_windows(budgets_s[stage], now_s)

    def offered(self, tag: StageTag, now_s: float) -> None:
        """A request arrived; it is counted before admission, and once."""
        images = tag.encode_tokens
        self.requests += 1
        self.image_tokens += images
        self.text_tokens += tag.context_tokens - images
        if Stage.ENCODE in tag.stages:
            self._stages[Stage.ENCODE].offer(images, len(tag.item_tokens), now_s)
        if Stage.PREFILL in tag.stages:
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

    def count(self, counter: str, at_s: float, waiting: Mapping[Stage, Backlog]) -> Count:
        """Return what was counted up to now.

        Args:
            counter: Whose count it is.
            at_s: Now.
            waiting: What waits at this moment.
        """
        for totals in self._stages.values():
            totals.close_windows(at_s)
        return Count(
            counter=counter,
            age_s=at_s - self.began_s,
            totals=self._sample(at_s),
            windows={stage: _windows(totals) for stage, totals in self._stages.items()},
            waiting=waiting,
        )

    def _sample(self, at_s: float) -> ServiceSample:
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
            stages={stage: _stage_sample(totals) for stage, totals in self._stages.items()},
        )


def _windows(totals: _StageTotals) -> Windows:
    return Windows(
        window_s=totals.window_s, since=totals.since, closed=totals.window, units=tuple(totals.over)
    )


def _stage_sample(totals: _StageTotals) -> StageSample:
    return StageSample(
        offered_units=totals.offered_units,
        offered_jobs=totals.offered_jobs,
        done_units=totals.done_units,
        waited_s=totals.waited_s,
        started_jobs=totals.started_jobs,
    )


def _p99(latencies: deque[tuple[float, float]], now_s: float) -> float | None:
    """Return the 99th percentile of the last `LATENCY_WINDOW_S`, by the nearest rank."""
    while latencies and latencies[0][0] < now_s - LATENCY_WINDOW_S:
        latencies.popleft()
    if not latencies:
        return None
    ratios = sorted([ratio for _, ratio in latencies])
    return ratios[min(len(ratios) - 1, int(0.99 * len(ratios)))]
