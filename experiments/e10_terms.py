"""E10: what is each term of coupled worth, where it should matter?"""

from functools import cache

from experiments.point import Experiment, Findings, Point, Row, Scale, Section, point
from experiments.services import hardware, twin
from experiments.stats import interval
from experiments.store import ROOT
from experiments.write import table
from orchestrator.control_policy import load_control_policy
from orchestrator.core.scaling.coupled_params import CoupledParams
from orchestrator.policy import load_policy
from orchestrator.simulator.ablate import REGIMES, TERMS, with_params
from orchestrator.simulator.fleet_spec import default_fleet
from orchestrator.simulator.scenario import Subject
from orchestrator.simulator.summary import HOUR_S, Summary

POLICY = ROOT / "policies" / "examples" / "small-replicas.yaml"
WHERE = {
    "offered": ("image-burst", "text-rise"),
    "caps": ("encoders-at-quota", "prefill-at-quota"),
    "cache hits": ("repeats",),
    "drain": ("text-overload", "length-drift", "backlog"),
    "dispersion": ("image-bursts", "image-burst", "calm"),
    "forecast": ("text-rise",),
    "guardrail": ("slower-engines",),
    "band": ("length-drift", "mix-shift", "prefill-silent", "decode-silent", "decode-silent-drift"),
    "atomic": ("text-rise", "mix-shift"),
    "settle": ("image-bursts",),
    "role_switch": ("mix-shift",),
    "backpressure": ("prefill-at-quota",),
    "hysteresis": ("calm", "image-bursts"),
    "cooldown": ("calm", "image-bursts"),
    "step limits": ("image-bursts", "text-rise"),
    "fast loop": ("image-burst", "image-bursts"),
    "budget": ("burst-in-budget",),
    "to zero": ("silence",),
}
"""Regimes of `ablate.REGIMES` in which a term of `ablate.TERMS` should matter."""
FIGURES = {"gpu_hours": 1.0, "attained": 100.0, "text": 100.0, "events": 1.0}
"""Columns with what they are multiplied by for people."""


@cache
def subject() -> Subject:
    """Return small replicas, whose counts move in fine steps; requests are drawn from half a day."""
    control = load_control_policy(POLICY, hardware())
    return Subject(
        policy=load_policy(POLICY),
        control=control,
        workload=twin(0).clipped(16).slice(12 * HOUR_S, 24 * HOUR_S),
        nodes=default_fleet([control], control.levels),
        hardware=hardware(),
    )


def points(scale: Scale) -> list[Point]:
    """Return each term in its regimes, or in the first of them."""
    most = 1 if scale.quick else None
    return [point(term=term, regime=regime) for term, regimes in WHERE.items() for regime in regimes[:most]]


def measure(at: Point, seed: int, scale: Scale) -> Row:
    """Return the figures with the term, and how much more they are without it."""
    regime, term = at.text("regime"), TERMS[at.text("term")]
    given, faults = REGIMES[regime].of(subject(), regime, seed), REGIMES[regime].faults
    params = CoupledParams(role_switch=True)
    whole = _figures(with_params(given, params, seed, faults))
    without = _figures(with_params(*term.without(given, params), seed, faults))
    more: dict[str, float | str | None] = {f"more_{name}": without[name] - whole[name] for name in whole}
    return {**whole, **more}


def _figures(summary: Summary) -> dict[str, float]:
    return {
        "gpu_hours": summary.gpu_hours,
        "attained": summary.attainment,
        "text": summary.groups["text"].attainment or 0.0,
        "events": float(sum(summary.scale_events.values())),
    }


def written(findings: Findings) -> Section:
    """Return a table of terms and regimes."""
    rows = []
    for at in findings.points():
        with_it = [
            interval([f * v for v in findings.values(at, n)]).text for n, f in list(FIGURES.items())[:2]
        ]
        more = [
            interval([factor * v for v in findings.values(at, f"more_{name}")]).text
            for name, factor in FIGURES.items()
        ]
        what = REGIMES[at.text("regime")].what
        rows.append((at.text("term"), what, *with_it, *more))
    heads = (
        "without",
        "when",
        "GPU-hours with",
        "attained % with",
        "GPU-hours +",
        "attained +",
        "text +",
        "events +",
    )
    return Section(text=f"{table(heads, rows)}\n{_worth(findings)}", plots={})


def _worth(findings: Findings) -> str:
    """Say which terms are worth something somewhere."""
    terms = list(dict.fromkeys(at.text("term") for at in findings.points()))
    worth = [
        t for t in terms if any(_worse(findings, at) for at in findings.points() if at.text("term") == t)
    ]
    rest = [term for term in terms if term not in worth]
    return (
        "- Goal: without a term the service is measurably worse somewhere: with the whole interval it "
        "attains less, in all or of text, or takes more GPU-hours and attains no more. "
        f"Measured: worse without {', '.join(worth) or 'none'}; not without {', '.join(rest) or 'any'}.\n"
    )


def _worse(findings: Findings, at: Point) -> bool:
    hours, attained, text = (
        interval(findings.values(at, f"more_{name}")) for name in ("gpu_hours", "attained", "text")
    )
    return min(attained.high, text.high) < 0.0 or (hours.low > 0.0 and attained.low <= 0.0)


E10 = Experiment(
    name="E10",
    title="What each term of coupled is worth",
    figure=None,
    points=points,
    measure=measure,
    expected_s=lambda at, scale: 60.0 if at.text("regime") == "backlog" else 8.0,
    written=written,
)
