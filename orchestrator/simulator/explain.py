"""explain(): why a decision of a run was taken, what other policies would have decided, and what it cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.core.autoscaler import plan
from orchestrator.core.decide import Decision
from orchestrator.core.observed import Signals, Snapshot
from orchestrator.core.planned import ControlPolicy, ScalePlan, ScalerState
from orchestrator.core.scaling import SCALERS, Params
from orchestrator.simulator.evaluate import evaluate
from orchestrator.simulator.faults import Fault
from orchestrator.simulator.foresight import foreseen, timetable
from orchestrator.simulator.run import simulate
from orchestrator.simulator.scenario import Subject, scenario_of
from orchestrator.simulator.summary import Summary, summarise
from orchestrator.simulator.world import TICK_S


class NoSuchMomentError(ValueError):
    """No decision was taken then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One decision, in the light of what others would have done.

    Attributes:
        at_s: When it was taken: the last at or before the time asked for.
        signals: What it saw.
        plan: What it wanted, with reasons.
        others: What each other policy would have wanted, had it seen the same from the beginning.
        own: Figures of the whole run.
        oracle: Figures of a run that knows what is to come, on the same requests and starts.
    """

    at_s: float
    signals: Signals
    plan: ScalePlan
    others: Mapping[str, ScalePlan]
    own: Summary
    oracle: Summary

    @property
    def regret_gpu_hours(self) -> float:
        """GPU-hours that the run took beyond the oracle's; below 0 if fewer."""
        return self.own.gpu_hours - self.oracle.gpu_hours

    @property
    def regret_attainment(self) -> float:
        """Attainment that the run fell short of the oracle's."""
        return self.oracle.attainment - self.own.attainment


def explain(subject: Subject, at_s: float, *, faults: Sequence[Fault] = (), seed: int = 0) -> Explanation:
    """Run a subject again, and explain the decision at a time.

    Args:
        subject: Policy, trace and fleet of the run; equal ones give the same run.
        at_s: Seconds since its beginning.
        faults: What went wrong in it.
        seed: The run's.

    Raises:
        NoSuchMomentError: The run was over by then, or control had not begun.
    """
    shadows = _Shadows(at_s, {name: _as_others(subject, name) for name in _others(subject)})
    scenario = scenario_of([subject.tenant()], subject.nodes, faults=faults, seed=seed)
    own = summarise(simulate(scenario, watch=shadows.take))
    if shadows.decision is None or at_s > own.span_s:
        raise NoSuchMomentError(
            f"no decision at {at_s:g} s: they were taken every {TICK_S:g} s until {own.span_s:,.0f} s"
        )
    service = subject.control.service
    return Explanation(
        at_s=shadows.decided_s,
        signals=shadows.decision.signals[service],
        plan=shadows.decision.plans[service],
        others=dict(shadows.plans),
        own=own,
        oracle=evaluate([subject], "oracle", [foreseen(subject)], seed, faults),
    )


def _others(subject: Subject) -> list[str]:
    """Return whom to compare with: who can say something without a search or a world of their own."""
    left_out = (subject.control.scaling, "static-best", "oracle-zero-lag")
    return [name for name in SCALERS if name not in left_out]


def _as_others(subject: Subject, name: str) -> ControlPolicy:
    """Return the policy with another way of scaling, its defaults or what it is told of the future."""
    told: Mapping[str, Callable[[Subject], Params]] = {"oracle": foreseen, "periodic": timetable}
    params = told[name](subject) if name in told else SCALERS[name].params()
    return replace(subject.control, scaling=name, params=params)


@dataclass(slots=True)
class _Shadows:
    """Policies that see all that the run's sees, and whose plans nobody follows.

    Attributes:
        until_s: They stop to look then.
        policies: By name.
        decision: The run's last one by then, and `decided_s` its time.
        plans: Theirs of the same time.
    """

    until_s: float
    policies: Mapping[str, ControlPolicy]
    decision: Decision | None = None
    decided_s: float = 0.0
    plans: dict[str, ScalePlan] = field(default_factory=dict)
    states: dict[str, ScalerState] = field(default_factory=dict)

    def take(self, now_s: float, snapshot: Snapshot, decision: Decision) -> None:
        """Hear of a decision."""
        if now_s > self.until_s:
            return
        self.decision, self.decided_s = decision, now_s
        (signals,) = decision.signals.values()
        for name, policy in self.policies.items():
            state = self.states.get(name, ScalerState())
            self.plans[name], self.states[name] = plan(signals, policy, state, now_s)
