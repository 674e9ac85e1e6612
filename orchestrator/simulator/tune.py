"""tune(): the cheapest fixed counts that keep a policy's promises on a trace, and so its E:P:D ratio."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orchestrator.core.scaling.static import StaticBestParams
from orchestrator.simulator.foresight import needs
from orchestrator.simulator.run import simulate
from orchestrator.simulator.scenario import Subject
from orchestrator.simulator.summary import Summary, summarise
from stages.types import Stage

Counts = Mapping[Stage, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Fixed counts and what came of them."""

    counts: Counts
    summary: Summary
    attained: bool

    @property
    def params(self) -> StaticBestParams:
        """The counts as parameters of the policy `static-best`."""
        return _params(self.counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """The best trial, and all of them in the order that they were made.

    Attributes:
        best: The cheapest that attained the SLO, or else the one that came closest.
    """

    best: Trial
    trials: tuple[Trial, ...]


def tune(
    subject: Subject, *, trials: int = 24, seed: int = 0, tried: Callable[[Trial], None] = lambda trial: None
) -> Tuned:
    """Search for the cheapest fixed counts.

    All stages are scaled together from what the busiest window needs, up until they suffice; then each
    stage is lowered by bisection, the dearest first, while the others stay. A bound on trials ends it.

    Args:
        subject: Policy, trace and fleet.
        trials: Simulations at most, ≥ 1.
        seed: Of all of them: the same starts for everyone.
        tried: Hears of each.
    """
    search = _Search(subject, trials, seed, tried)
    counts = search.suffice({stage: int(n.max()) for stage, n in needs(subject).items()})
    for stage in sorted(Stage, key=lambda s: -subject.control.stages[s].tp):
        counts = search.lower(counts, stage)
    return search.result()


class _Search:
    """Trials made so far, and the next ones."""

    def __init__(self, subject: Subject, trials: int, seed: int, tried: Callable[[Trial], None]) -> None:
        self._subject = subject
        self._left = trials
        self._seed = seed
        self._tried = tried
        self._trials: list[Trial] = []

    def suffice(self, counts: dict[Stage, int]) -> dict[Stage, int]:
        """Return counts that attain the SLO, half as many again each time, or the most there may be."""
        most = {stage: bounds.max for stage, bounds in self._subject.control.stages.items()}
        while not self._try(counts) and self._left and counts != most:
            counts = {stage: min(most[stage], counts[stage] + (counts[stage] + 1) // 2) for stage in Stage}
        return counts

    def lower(self, counts: dict[Stage, int], stage: Stage) -> dict[Stage, int]:
        """Return the counts with as few of one stage as suffice."""
        low, high = max(0, self._subject.control.stages[stage].min - 1), counts[stage]
        while high - low > 1 and self._left:
            middle = (low + high) // 2
            if self._try({**counts, stage: middle}):
                high = middle
            else:
                low = middle
        return {**counts, stage: high}

    def result(self) -> Tuned:
        attained = [trial for trial in self._trials if trial.attained]
        if attained:
            best = min(attained, key=lambda trial: trial.summary.cost_usd)
        else:
            best = max(self._trials, key=lambda trial: trial.summary.attainment)
        return Tuned(best=best, trials=tuple(self._trials))

    def _try(self, counts: dict[Stage, int]) -> bool:
        self._left -= 1
        scenario = self._subject.scenario(scaling="static-best", params=_params(counts), seed=self._seed)
        summary = summarise(simulate(scenario))
        attained = summary.attainment >= self._subject.control.attainment
        trial = Trial(counts=counts, summary=summary, attained=attained)
        self._trials.append(trial)
        self._tried(trial)
        return attained


def _params(counts: Counts) -> StaticBestParams:
    encode, prefill, decode = (counts[stage] for stage in Stage)
    return StaticBestParams(encode=encode, prefill=prefill, decode=decode)
