"""E11: do the main conclusions hold if a profile is as far off as it may be?"""

import math
from dataclasses import replace
from functools import partial

import numpy as np

from experiments.closed_loops import TRAINING_SEED, load
from experiments.e2_ratio import with_share
from experiments.e10_terms import subject
from experiments.goodput import Bench, Layout, bound_per_s, goodputs, slowdown
from experiments.layouts import encode_apart, monolith
from experiments.point import Experiment, Findings, Point, Row, Scale, Section, point
from experiments.services import base, twin
from experiments.stats import interval
from experiments.tuned import found
from experiments.write import table
from orchestrator.core.planned import ControlPolicy
from orchestrator.simulator.build import slowed
from orchestrator.simulator.evaluate import evaluate
from orchestrator.simulator.scenario import Subject
from orchestrator.simulator.search import search
from stages.types import Stage

MODEL, GPUS, FACTOR, SHARE = "internvl-26b", 64, 10.0, 0.5
"""Goodput as in E2, where half of the requests have images."""
MONOLITHS = {"monolith RR": "monolith-round-robin", "monolith LW": "monolith-least-work"}
SPLITS = {"8:32": 32, "10:24": 24, "12:16": 16}
"""Encoders by split, as E2 names it."""
POLICIES = ("coupled", "hpa", "oracle")
ATTAINMENT = 0.99
AS_IS = ("none", 1.0)


def ends() -> list[tuple[str, float]]:
    """Return the profile as it is, and each stage's times at both ends of the profile's error."""
    error = base(MODEL)[1].profile.error
    return [AS_IS, *[(str(stage), factor) for stage in Stage for factor in error]]


def at_end(control: ControlPolicy, stage: str, factor: float) -> ControlPolicy:
    """Return what control needs of a policy file, had its profile so many times the times of a stage."""
    if stage == "none":
        return control
    profile = replace(control.profile, **{stage: getattr(slowed(control.profile, factor), stage)})
    return replace(control, profile=profile)


def points(scale: Scale) -> list[Point]:
    """Return what is asked at each end."""
    asked = [{"question": "split"}, *[{"question": "policy", "policy": name} for name in POLICIES]]
    return [point(**each, stage=stage, factor=factor) for each in asked for stage, factor in ends()]


def measure(at: Point, seed: int, scale: Scale) -> Row:
    """Return goodputs, or what a policy comes to with parameters found at the same end."""
    stage, factor = at.text("stage"), at.number("factor")
    if at.text("question") == "split":
        return _splits(stage, factor, seed, 1_000 if scale.quick else 2_000)
    policy, trials = at.text("policy"), 2 if scale.quick else 6
    best = found(
        f"E11 {policy} {stage} {factor} {trials}",
        lambda: search(
            _service(stage, factor, TRAINING_SEED), policy, trials=trials, seed=TRAINING_SEED, goal=ATTAINMENT
        ),
    )
    given = _service(stage, factor, seed)
    summary = evaluate([given], policy, [best.params(given)], seed)
    trained = best.best.summary.gpu_hours if best.best.attained else None
    return {"gpu_hours": summary.gpu_hours, "attainment": summary.attainment, "trained": trained}


def _service(stage: str, factor: float, seed: int) -> Subject:
    """Return small replicas for forty minutes in which the day's swing passes."""
    given = subject()
    return replace(given, control=at_end(given.control, stage, factor), workload=load("diurnal", seed))


def _splits(stage: str, factor: float, seed: int, requests: int) -> Row:
    """Return the goodput of each system at its own bound on the same requests."""
    policy, control = base(MODEL)
    work = with_share(twin(0).clipped(16), SHARE, requests, np.random.default_rng((seed, 11)))
    bench = Bench(
        policy=policy, control=at_end(control, stage, factor), fleet=f"a100={GPUS // 8}x8", work=work
    )
    most = bound_per_s(bench.control, work, GPUS)
    return {
        name: goodputs(partial(slowdown, bench, layout, seed=seed), (FACTOR,), most)[0]
        for name, layout in _layouts().items()
    }


def _layouts() -> dict[str, Layout]:
    whole = {name: monolith(system, GPUS) for name, system in MONOLITHS.items()}
    return {**whole, **{name: encode_apart(encoders, GPUS) for name, encoders in SPLITS.items()}}


def written(findings: Findings) -> Section:
    """Return the gain of splitting and the savings of coupled at each end, and how far they move."""
    return Section(text=f"{_gains(findings)}\n{_savings(findings)}", plots={})


def _gains(findings: Findings) -> str:
    rows, gains = [], []
    for stage, factor in ends():
        at = point(question="split", stage=stage, factor=factor)
        if at not in findings.points():
            continue
        goodput = {name: interval(findings.values(at, name)).mean for name in SPLITS}
        best = max(goodput, key=lambda name: goodput[name])
        over = [interval(_ratios(findings, at, best, name)) for name in MONOLITHS]
        gains.append(over[-1].mean)
        rows.append((_named(stage, factor), best, *[f"{each.text} ×" for each in over]))
    heads = ("times of the profile", "best split", *[f"over {name}" for name in MONOLITHS])
    return (
        f"### The gain of splitting\n\n{table(heads, rows)}\n"
        f"- Over monolith LW: {min(gains, default=math.nan):.2f} to {max(gains, default=math.nan):.2f} ×.\n"
    )


def _ratios(findings: Findings, at: Point, one: str, other: str) -> list[float]:
    """Return one system's goodput over another's, which are columns of one row."""
    ones, others = findings.values(at, one), findings.values(at, other)
    return [value / base for value, base in zip(ones, others, strict=True) if base]


def _savings(findings: Findings) -> str:
    rows = []
    for stage, factor in ends():
        at = {name: point(question="policy", policy=name, stage=stage, factor=factor) for name in POLICIES}
        attained = [
            interval([100.0 * value for value in findings.values(at[name], "attainment")]).text
            for name in POLICIES
        ]
        over = [
            f"{interval(findings.ratios(at['coupled'], at[name], figure)).text} ×"
            for figure in ("trained", "gpu_hours")
            for name in POLICIES[1:]
        ]
        rows.append((_named(stage, factor), *over, ", ".join(attained)))
    heads = (
        "times of the profile",
        *[f"over {name} {where}" for where in ("in training", "judged") for name in POLICIES[1:]],
        f"attained %: {', '.join(POLICIES)}",
    )
    return f"### GPU-hours of coupled\n\n{table(heads, rows)}"


def _named(stage: str, factor: float) -> str:
    return "as they are" if stage == "none" else f"{stage} × {factor:g}"


def _expected_s(at: Point, scale: Scale) -> float:
    if at.text("question") == "split":
        return 6.0 if scale.quick else 11.0
    return 10.0 if scale.quick else 5.0  # the search takes most of it, once for all seeds


E11 = Experiment(
    name="E11",
    title="At the ends of the profiles' uncertainty",
    figure=None,
    points=points,
    measure=measure,
    expected_s=_expected_s,
    written=written,
)
