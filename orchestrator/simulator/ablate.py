"""ablate(): what each term of coupled is worth, in the regimes in which it should matter."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from orchestrator.core.planned import ControlPolicy
from orchestrator.core.scaling.coupled_params import CoupledParams
from orchestrator.simulator.evaluate import evaluate
from orchestrator.simulator.faults import Fault, MetricLoss, StuckProvisioner
from orchestrator.simulator.regimes import Load, Regime, flat, with_least
from orchestrator.simulator.scenario import Subject
from orchestrator.simulator.summary import Summary
from stages.types import Stage

_MINUTES = 70


def _steps(*parts: tuple[int, float]) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Return factors by minute: (minutes, factor) one after another."""
    return np.concatenate([np.full(minutes, factor) for minutes, factor in parts])


def _burst() -> Load:
    calm = flat(_MINUTES, text=2.0, images=0.4)
    return replace(calm, images=calm.images * _steps((30, 1.0), (10, 15.0), (30, 1.0)))


def _bursts() -> Load:
    calm = flat(_MINUTES, text=2.0, images=0.4)
    return replace(calm, images=calm.images * _steps(*[(9, 1.0), (1, 12.0)] * 7))


def _rise() -> Load:
    calm = flat(_MINUTES, text=2.0, images=0.0)
    ramp = np.concatenate([np.ones(10), np.linspace(1.0, 8.0, 45), np.full(15, 8.0)])
    return replace(calm, text=calm.text * ramp)


def _drift() -> Load:
    return replace(flat(_MINUTES, text=6.0, images=0.2), output=_steps((20, 1.0), (50, 4.0)))


def _shift() -> Load:
    before, after = flat(25, text=6.0, images=0.4), flat(45, text=4.0, images=0.0)
    return Load(
        text=np.concatenate([before.text, after.text]),
        images=np.concatenate([before.images, after.images]),
        output=_steps((25, 1.0), (45, 5.0)),
    )


def _silence() -> Load:
    busy = flat(_MINUTES, text=4.0, images=0.6)
    on = _steps((15, 1.0), (40, 0.0), (15, 1.0))
    return replace(busy, text=busy.text * on, images=busy.images * on)


def _overload() -> Load:
    return replace(flat(_MINUTES, text=4.0, images=0.2), text=4.0 * _steps((20, 1.0), (8, 6.0), (42, 1.0)))


REGIMES: Mapping[str, Regime] = {
    "image-burst": Regime(what="images × 15 for ten minutes", load=_burst()),
    "image-bursts": Regime(what="images × 12 for a minute in every ten", load=_bursts()),
    "encoders-at-quota": Regime(
        what="images × 15, six encoders at most", load=_burst(), most={Stage.ENCODE: 6}
    ),
    "prefill-at-quota": Regime(
        what="images × 15, three prefill replicas at most", load=_burst(), most={Stage.PREFILL: 3}
    ),
    "text-rise": Regime(what="text × 8 within 45 minutes", load=_rise()),
    "length-drift": Regime(what="completions become four times as long", load=_drift()),
    "text-overload": Regime(what="text × 6 for eight minutes", load=_overload()),
    "backlog": Regime(
        what="text × 6 for eight minutes, no start ends for thirty, ten minutes of work may wait",
        load=_overload(),
        faults=(StuckProvisioner(at_s=1_200.0, for_s=1_800.0),),
        queue_s=600.0,
    ),
    "prefill-silent": Regime(
        what="text × 8 within 45 minutes, prefill replicas silent from the tenth minute",
        load=_rise(),
        faults=(MetricLoss(at_s=600.0, stage=Stage.PREFILL),),
    ),
    "decode-silent": Regime(
        what="text × 8 within 45 minutes, decode replicas silent from the tenth minute",
        load=_rise(),
        faults=(MetricLoss(at_s=600.0, stage=Stage.DECODE),),
    ),
    "decode-silent-drift": Regime(
        what="completions become four times as long, decode replicas silent from then on",
        load=_drift(),
        faults=(MetricLoss(at_s=1_200.0, stage=Stage.DECODE),),
    ),
    "slower-engines": Regime(
        what="engines take 1.6 times what the profile says",
        load=flat(_MINUTES, text=5.0, images=0.8),
        slowdown=1.6,
    ),
    "mix-shift": Regime(what="images end and completions become five times as long", load=_shift()),
    "burst-in-budget": Regime(what="images × 15, a budget of 24 accelerators", load=_burst(), budget=24),
    "silence": Regime(what="no requests for forty minutes, minima of 0", load=_silence(), least=0),
    "repeats": Regime(
        what="nine in ten requests repeat one of fifty",
        load=flat(_MINUTES, text=4.0, images=0.6),
        known=0.9,
    ),
    "calm": Regime(what="constant rates", load=flat(_MINUTES, text=4.0, images=0.6)),
}
"""Loads by name, and what else is special about them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A part of the decision, and how it is left out.

    Attributes:
        params: Parameters of coupled that leave it out.
        control: The rest of the policy without it, if it is a rule for all scaling policies.
    """

    params: Mapping[str, object] = field(default_factory=dict)
    control: Callable[[ControlPolicy], ControlPolicy] = lambda control: control

    def without(self, subject: Subject, params: CoupledParams) -> tuple[Subject, CoupledParams]:
        """Return both without the term."""
        changed: dict[str, Any] = dict(self.params)
        return replace(subject, control=self.control(subject.control)), replace(params, **changed)


TERMS: Mapping[str, Term] = {
    "offered": Term(params={"offered": False}),
    "caps": Term(params={"caps": False}),
    "cache hits": Term(params={"cache_hits": False}),
    "drain": Term(params={"drain": False}),
    "dispersion": Term(params={"dispersion": False}),
    "forecast": Term(params={"forecast": False}),
    "guardrail": Term(params={"guardrail": False}),
    "band": Term(params={"band": "never"}),
    "atomic": Term(params={"atomic": False}),
    "settle": Term(params={"settle_s": 0.0}),
    "role_switch": Term(params={"role_switch": False}),
    "backpressure": Term(params={"backpressure": False}),
    "hysteresis": Term(params={"hysteresis_out": 0.0, "hysteresis_in": 0.0}),
    "cooldown": Term(params={"encode_cooldown_out_s": 0.0, "cooldown_out_s": 0.0, "cooldown_in_s": 0.0}),
    "step limits": Term(params={"up": None, "down": 1.0}),
    "fast loop": Term(params={"encode_period_s": CoupledParams().period_s}),
    "budget": Term(control=lambda control: replace(control, budget=None)),
    "to zero": Term(control=lambda control: with_least(control, 1)),
}
"""What can be left out, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """One term in one regime: runs with it and without, seed by seed on the same requests and starts."""

    term: str
    regime: str
    whole: tuple[Summary, ...]
    without: tuple[Summary, ...]


def ablate(
    subject: Subject,
    *,
    terms: Mapping[str, Term] = TERMS,
    regimes: Mapping[str, Regime] = REGIMES,
    seeds: Sequence[int] = (0, 1, 2),
    done: Callable[[], None] = lambda: None,
) -> Iterator[Ablation]:
    """Yield each term in each regime; len(regimes) · (1 + len(terms)) · len(seeds) simulations.

    Args:
        subject: Its policy names coupled; its workload's requests are drawn from. Roles may switch, which
            comes to something where prefill and decode are of one size on one kind of hardware.
        terms: What to leave out, by name.
        regimes: By name.
        seeds: Of arrivals and starts.
        done: Hears of every simulation.
    """
    own = subject.control.params
    params = replace(own if isinstance(own, CoupledParams) else CoupledParams(), role_switch=True)
    for name, regime in regimes.items():
        subjects = {seed: regime.of(subject, name, seed) for seed in seeds}
        whole = tuple(with_params(each, params, seed, regime.faults, done) for seed, each in subjects.items())
        for term_name, term in terms.items():
            without = tuple(
                with_params(*term.without(each, params), seed, regime.faults, done)
                for seed, each in subjects.items()
            )
            yield Ablation(term=term_name, regime=name, whole=whole, without=without)


def with_params(
    subject: Subject,
    params: CoupledParams,
    seed: int,
    faults: Sequence[Fault] = (),
    done: Callable[[], None] = lambda: None,
) -> Summary:
    """Return what coupled with these parameters comes to; admission has them from the policy file."""
    scaling = replace(subject.policy.scaling, policy="coupled", params=params)
    subject = replace(subject, policy=replace(subject.policy, scaling=scaling))
    summary = evaluate([subject], "coupled", [params], seed, faults)
    done()
    return summary
