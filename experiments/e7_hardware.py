"""E7: on which accelerators should the encoders run?"""

from dataclasses import replace

from experiments.point import Experiment, Findings, Point, Row, Scale, Section, point
from experiments.services import day, figures, subject
from experiments.stats import interval
from experiments.write import table
from orchestrator.simulator.evaluate import evaluate
from orchestrator.simulator.fleet_spec import parse_fleet
from orchestrator.simulator.scenario import Subject
from stages.types import Stage

MODELS = ("internvl-26b", "llama-11b")
ENCODERS = ("a100", "h100", "l40s", "a40", "l4")
EQUAL = 0.01
"""Fraction of requests by which attainments may differ and count as equal."""


def service(model: str, encoder: str, seed: int, scale: Scale) -> Subject:
    """Return a service with its encoders on one type and the language model on A100s."""
    hours, begin_h = (1.0, 8.0) if scale.quick else (8.0, 7.0)
    given = subject(model, day(seed, hours=hours, rate=2.0, begin_h=begin_h), "a100=16x8")
    control = given.control
    bounds = replace(control.stages[Stage.ENCODE], hardware=(encoder,))
    nodes = parse_fleet(f"a100=16x8,{encoder}=16x8" if encoder != "a100" else "a100=32x8", control.levels)
    control = replace(control, stages={**control.stages, Stage.ENCODE: bounds})
    return replace(given, control=control, nodes=nodes)


def points(scale: Scale) -> list[Point]:
    """Return each model with its encoders on each type."""
    return [point(model=model, encoder=encoder) for model in MODELS for encoder in ENCODERS]


def measure(at: Point, seed: int, scale: Scale) -> Row:
    """Return the figures under coupled with its defaults."""
    given = service(at.text("model"), at.text("encoder"), seed, scale)
    return figures(evaluate([given], "coupled", [None], seed))


def written(findings: Findings) -> Section:
    """Return cost and attainment by the encoders' type."""
    parts = []
    for model in MODELS:
        base = point(model=model, encoder="a100")
        rows = []
        for encoder in ENCODERS:
            at = point(model=model, encoder=encoder)
            rows.append(
                (
                    encoder,
                    interval(findings.values(at, "cost_usd")).text,
                    f"{interval(findings.ratios(at, base, 'cost_usd')).text} ×",
                    interval(findings.values(at, "gpu_hours")).text,
                    interval([100.0 * a for a in findings.values(at, "attainment")]).text,
                    interval(findings.values(at, "ttft_p99_s")).text,
                )
            )
        heads = ("encoders on", "cost $", "over a100", "GPU-hours", "attained %", "TTFT p99 s")
        parts.append(f"### {model}\n\n{table(heads, rows)}\n{_beside_heteroscale(findings, model)}")
    return Section(text="\n".join(parts), plots={})


def _beside_heteroscale(findings: Findings, model: str) -> str:
    """Say what encoders on the language model's own type cost, of those that attain as much."""
    base = point(model=model, encoder="a100")
    least = interval(findings.values(base, "attainment")).mean - EQUAL
    able = [
        at
        for at in (point(model=model, encoder=name) for name in ENCODERS)
        if interval(findings.values(at, "attainment")).mean >= least
    ]
    best = min(able, key=lambda at: interval(findings.values(at, "cost_usd")).mean, default=base)
    more = interval([100.0 * (ratio - 1.0) for ratio in findings.ratios(base, best, "cost_usd")])
    return (
        f"- All on a100 cost {more.text} % more than with encoders on {best.text('encoder')}, the cheapest "
        f"that attains as much within {100.0 * EQUAL:g} point; HeteroScale reports +41 % a token.\n"
    )


E7 = Experiment(
    name="E7",
    title="Encoders on cheaper accelerators",
    figure="cost_usd",
    points=points,
    measure=measure,
    expected_s=lambda at, scale: 6.0 if scale.quick else 40.0,
    written=written,
)
