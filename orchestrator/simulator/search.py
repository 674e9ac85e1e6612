"""search(): the parameters with which a scaling policy keeps its promises for the fewest GPU-hours.

Every policy gets as many simulations and the same algorithm: none is judged by its defaults alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.core.scaling import SCALERS
from orchestrator.core.scaling.params import Params
from orchestrator.simulator.evaluate import evaluate
from orchestrator.simulator.scenario import Subject
from orchestrator.simulator.spaces import SPACES, Point
from orchestrator.simulator.summary import Summary
from orchestrator.simulator.tune import Trial as Counts
from orchestrator.simulator.tune import tune

SPREAD = 3
"""One in so many trials is spread over the whole space; the others look around the best."""
_STEP = 0.25
_SMALLEST_STEP = 0.02
_RESCUES = (0.5, 0.75, 1.0)

Shares = tuple[float, ...]
"""Where each knob stands, from 0, cheap, to 1, safe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One simulation of a search.

    Attributes:
        point: Values by knob.
        params: The parameters made of them.
        attained: Whether the goal was reached.
    """

    point: Point
    params: Params
    summary: Summary
    attained: bool

    @property
    def rank(self) -> tuple[bool, float]:
        """Sorts the best first: the cheapest that attained, else the one that came closest."""
        return not self.attained, self.summary.gpu_hours if self.attained else -self.summary.attainment


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search has come to; plain data, so that it can be pickled.

    Attributes:
        scaling: The policy.
        best: The best trial.
        trials: All, in the order that they were made.
    """

    scaling: str
    best: Trial
    trials: tuple[Trial, ...]

    def params(self, subject: Subject) -> Params:
        """Return the parameters found; what an oracle foresees is that subject's own."""
        if SCALERS[self.scaling].live:
            return self.best.params
        return SPACES[self.scaling].params(subject, self.best.point)


def search(
    subject: Subject,
    scaling: str,
    *,
    trials: int = 12,
    seed: int = 0,
    goal: float | None = None,
    tried: Callable[[Trial], None] = lambda trial: None,
) -> Found:
    """Search for the cheapest parameters of a policy on a training workload.

    The first trial is the policy's default. A third is spread by a Latin hypercube. The rest turn one knob
    after the other of the best so far, towards cheap at first; a turn that does not pay is reversed and
    halved. static-best has the same number of trials of `tune`.

    Args:
        subject: Policy, trace and fleet to train on.
        scaling: A key of `SCALERS`.
        trials: Simulations at most, ≥ 1.
        seed: Of the hypercube, and of every simulation's starts.
        goal: Attainment to reach; by default the policy's SLO.
        tried: Hears of each trial.
    """
    goal = subject.control.attainment if goal is None else goal
    if scaling == "static-best":
        return _fixed(subject, trials, seed, goal, tried)
    return _Search(subject, scaling, trials, seed, goal, tried).run()


class _Search:
    """Trials made so far, and the next ones."""

    def __init__(
        self,
        subject: Subject,
        scaling: str,
        trials: int,
        seed: int,
        goal: float,
        tried: Callable[[Trial], None],
    ) -> None:
        self._subject = subject
        self._scaling = scaling
        self._left = trials
        self._seed = seed
        self._goal = goal
        self._tried = tried
        self._knobs = SPACES[scaling].knobs
        self._made: list[tuple[Trial, Shares]] = []

    def run(self) -> Found:
        start = tuple(knob.share(knob.start) for knob in self._knobs.values())
        self._try(start)
        if self._knobs:
            spread = min(self._left, (self._left + 1) // SPREAD)
            for shares in _hypercube(spread, len(self._knobs), np.random.default_rng(self._seed)):
                self._try(shares)
            self._rescue(start)
            self._descend()
        return Found(scaling=self._scaling, best=self._best()[0], trials=tuple(t for t, _ in self._made))

    def _best(self) -> tuple[Trial, Shares]:
        return min(self._made, key=lambda made: made[0].rank)

    def _rescue(self, start: Shares) -> None:
        """While nothing attains, turn all knobs together towards safe."""
        for way in _RESCUES:
            if self._left and not self._best()[0].attained:
                self._try(tuple(share + way * (1.0 - share) for share in start))

    def _descend(self) -> None:
        """Turn one knob after the other of the best so far; what does not pay is reversed and halved."""
        first = -_STEP if self._best()[0].attained else _STEP
        steps = [first] * len(self._knobs)
        knob = 0
        while self._left and max(map(abs, steps)) > _SMALLEST_STEP:
            shares = self._best()[1]
            moved = min(1.0, max(0.0, shares[knob] + steps[knob]))
            pays = moved != shares[knob] and self._try((*shares[:knob], moved, *shares[knob + 1 :]))
            if not pays:
                steps[knob] *= -0.5
            knob = (knob + 1) % len(steps)

    def _try(self, shares: Shares) -> bool:
        """Simulate once; return whether it is better than all before."""
        self._left -= 1
        point = {
            name: knob.at(share) for (name, knob), share in zip(self._knobs.items(), shares, strict=True)
        }
        params = SPACES[self._scaling].params(self._subject, point)
        trial = _trial(self._subject, self._scaling, point, params, self._seed, self._goal)
        better = not self._made or trial.rank < self._best()[0].rank
        self._made.append((trial, shares))
        self._tried(trial)
        return better


def _trial(subject: Subject, scaling: str, point: Point, params: Params, seed: int, goal: float) -> Trial:
    summary = evaluate([subject], scaling, [params], seed)
    return Trial(point=point, params=params, summary=summary, attained=summary.attainment >= goal)


def _fixed(subject: Subject, trials: int, seed: int, goal: float, tried: Callable[[Trial], None]) -> Found:
    """Let `tune` search for fixed counts."""

    def told(counts: Counts) -> Trial:
        point = {str(stage): float(count) for stage, count in counts.counts.items()}
        return Trial(point=point, params=counts.params, summary=counts.summary, attained=counts.attained)

    subject = replace(subject, control=replace(subject.control, attainment=goal))
    tuned = tune(subject, trials=trials, seed=seed, tried=lambda counts: tried(told(counts)))
    made = tuple(told(counts) for counts in tuned.trials)
    return Found(scaling="static-best", best=min(made, key=lambda t: t.rank), trials=made)


def _hypercube(count: int, knobs: int, rng: np.random.Generator) -> list[Shares]:
    """Return points of which each knob takes each of `count` equal parts of its way once."""
    parts = np.array([rng.permutation(count) for _ in range(knobs)], dtype=np.float64).T.reshape(count, knobs)
    return [tuple(row) for row in ((parts + rng.random((count, knobs))) / max(1, count)).tolist()]
