"""Loops that scale one stage by one signal and nothing else, to see what the signal is worth in control."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from experiments.e5_table import Signal
from experiments.e10_terms import subject
from orchestrator.core.decide import Decision, ServiceState, decide
from orchestrator.core.observed import Signals, Snapshot
from orchestrator.core.planned import ControlPolicy
from orchestrator.core.scaling.static import StaticParams
from orchestrator.core.scaling.steps import Clock, StepRules, step
from orchestrator.simulator.auto_rate import accelerator_s
from orchestrator.simulator.regimes import MINUTE_S, Load, drawn, flat
from orchestrator.simulator.run import simulate
from orchestrator.simulator.summary import Summary, summarise
from orchestrator.simulator.workload import Workload
from stages.types import Stage

MINUTES = 40
PERIOD_S = 15.0
RULES = StepRules(
    hysteresis_out=0.10, hysteresis_in=0.20, cooldown_out_s=60.0, cooldown_in_s=300.0, up=1.0, down=0.2
)
ATTAINMENT = 0.98
"""Loads change faster here than replicas start: few loops reach 99 %."""
TRAINING_SEED = 1_000
_BUSY = 0.5
"""How busy the stages that are not scaled are in their busiest minute, and the other one at first."""
_FIRST_MINUTES = 5

_PART = np.arange(MINUTES) / MINUTES
_CALM = flat(MINUTES, text=5.0, images=0.6)
_SWING = 1.0 + 0.6 * np.sin(2.0 * np.pi * _PART)
_BURST = np.where((np.arange(MINUTES) >= 15) & (np.arange(MINUTES) < 25), 5.0, 1.0)
_LOADS: Mapping[str, Load] = {
    "diurnal": replace(_CALM, text=_CALM.text * _SWING, images=_CALM.images * _SWING),
    "image burst": replace(_CALM, images=_CALM.images * _BURST),
    "length drift": replace(_CALM, output=1.0 + 3.0 * _PART),
    "cache-hit drift": replace(_CALM, images=2.0 * _CALM.images),
}


@dataclass(slots=True, kw_only=True)
class SignalLoop:
    """Keeps one signal of one stage at its target; the other stages keep their counts.

    N = ⌈N_ready · signal / target⌉ where the signal is of a replica, as the Kubernetes HPA has it, and
    ⌈signal / target⌉ where it is of all of them; with `RULES`, every `PERIOD_S`. For one run.

    Attributes:
        signal: While there is none the count stays.
        target: Above 0.
        counts: Replicas now, by stage.
    """

    signal: Signal
    target: float
    counts: dict[Stage, int]
    _decided_s: float = -PERIOD_S
    _clock: Clock = field(default_factory=Clock)

    def __call__(
        self,
        snapshot: Snapshot,
        policies: Mapping[str, ControlPolicy],
        state: Mapping[str, ServiceState],
        now_s: float,
    ) -> Decision:
        """Return the decision for the one service there is; see `decide`."""
        ((name, policy),) = policies.items()
        fixed = replace(policy, params=_fixed(self.counts))
        decision = decide(snapshot, {name: fixed}, state, now_s)
        if now_s - self._decided_s >= PERIOD_S:
            self._decided_s = now_s
            self._turn(decision.signals[name], policy, now_s)
        return decision

    def _turn(self, signals: Signals, policy: ControlPolicy, now_s: float) -> None:
        """Set the count that the next decision goes by."""
        stage, value = self.signal.stage, self.signal.of(signals)
        if value is None:
            return
        need = value / self.target * (signals.stages[stage].ready if self.signal.each else 1)
        before = self.counts[stage]
        after, _ = step(before, need, RULES, self._clock, policy.stages[stage], now_s)
        self.counts[stage] = after
        self._clock = self._clock.after(before, after, now_s)


def load(kind: str, seed: int) -> Workload:
    """Return forty minutes of requests that change in one way; a day's swing passes in that time."""
    work = drawn(subject().workload, _LOADS[kind], seed, kind)
    if kind != "cache-hit drift":
        return work
    rng = np.random.default_rng((seed, 5))
    known = rng.random(len(work)) < work.arrival_s / work.span_s
    content = np.where(known, rng.integers(0, 50, len(work)), 1_000 + np.arange(len(work)))
    return replace(work, content_ids=content)


def searched(signal: Signal, trials: int, run: Callable[[float], Summary]) -> float:
    """Return the target that attains `ATTAINMENT` for the fewest GPU-hours, or comes closest to it.

    Halves the way between cheap and safe, in ratios.

    Args:
        signal: Names both ends.
        trials: Times that the way is halved.
        run: Simulates a loop with a target, on requests that it is not judged on.
    """
    low, high, tried = 0.0, 1.0, []
    for _ in range(trials):
        middle = (low + high) / 2.0
        target = signal.cheap * math.exp(middle * math.log(signal.safe / signal.cheap))
        summary = run(target)
        attained = summary.attainment >= ATTAINMENT
        rank = (not attained, summary.gpu_hours if attained else -summary.attainment)
        tried.append((rank, target))
        low, high = (low, middle) if attained else (middle, high)
    return min(tried)[1]


def looped(signal: Signal, target: float, kind: str, seed: int) -> Summary:
    """Simulate one loop; the other stages have enough."""
    given = replace(subject(), workload=load(kind, seed))
    minute = (given.workload.arrival_s // MINUTE_S).astype(np.int64)
    gpu_s = accelerator_s(given.control, given.workload)
    busy = {stage: np.bincount(minute, each_s) / MINUTE_S for stage, each_s in gpu_s.items()}
    counts = {stage: 1 + math.ceil(float(each.max()) / _BUSY) for stage, each in busy.items()}
    counts[signal.stage] = 1 + math.ceil(float(busy[signal.stage][:_FIRST_MINUTES].mean()) / _BUSY)
    scenario = given.scenario(scaling="static", params=_fixed(counts), seed=seed)
    loop = SignalLoop(signal=signal, target=target, counts=counts)
    return summarise(simulate(replace(scenario, decider=loop)))


def _fixed(counts: Mapping[Stage, int]) -> StaticParams:
    encode, prefill, decode = (counts[stage] for stage in Stage)
    return StaticParams(encode=encode, prefill=prefill, decode=decode)
