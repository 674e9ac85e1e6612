"""E3: what does scaling the stages apart save on a day with a burst of images?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.monolith import monolith_scenario
from experiments.point import Experiment, Findings, Point, Row, Scale, Section, point
from experiments.services import day, figures, subject, with_burst
from experiments.stats import interval, ratios
from experiments.tuned import found
from experiments.write import lines_plot, table
from orchestrator.simulator.auto_rate import auto_rate_scale
from orchestrator.simulator.axes import Axis, linear_axis
from orchestrator.simulator.evaluate import evaluate
from orchestrator.simulator.run import simulate
from orchestrator.simulator.scenario import Subject
from orchestrator.simulator.search import Found, search
from orchestrator.simulator.summary import HOUR_S, Summary, summarise

FLEETS = {"internvl-26b": "a100=16x8", "llama-11b": "a100=4x8"}
"""The smaller model gets a smaller fleet, for otherwise its day has three million requests."""
MONOLITHS = {"monolith LW": False, "monolith LW DP": True}
"""Whether a replica spreads images over its accelerators."""
POLICIES = ("coupled", "modserve", "heteroscale", "hpa", "static-best", "oracle")
TRAINING_SEED = 1_000
BURST_FACTOR, BURST_S = 12.0, 300.0
ATTAINMENT = 0.99
LEVELS = (0.85, 0.87, 0.89, 0.90, 0.95, 0.99)
"""Attainments at which systems are compared, since few reach the goal within the fleet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """What a search has come to.

    Attributes:
        best: The monolith's target, or what the search of a policy found.
        trials: GPU-hours and attainment of each trial.
    """

    best: float | Found
    trials: tuple[tuple[float, float], ...]


def service(model: str, seed: int, scale: Scale) -> Subject:
    """Return hours of a day with the burst in their middle, at 80 % of the fleet."""
    hours, begin_h = (4.0, 8.0) if scale.quick else (6.0, 7.0)

    def at_rate(rate: float) -> Subject:
        plain = day(seed, hours=hours, rate=rate, begin_h=begin_h)
        rng = np.random.default_rng((seed, 3))
        at_s = hours / 2.0 * HOUR_S
        return subject(
            model, with_burst(plain, at_s=at_s, for_s=BURST_S, factor=BURST_FACTOR, rng=rng), FLEETS[model]
        )

    given = at_rate(1.0)
    return at_rate(auto_rate_scale(given.control, given.workload, given.nodes))


def points(scale: Scale) -> list[Point]:
    """Return every system for both models."""
    return [point(model=model, system=system) for model in FLEETS for system in (*POLICIES, *MONOLITHS)]


def measure(at: Point, seed: int, scale: Scale) -> Row:
    """Return the figures with the cheapest parameters that attained on the training day."""
    model, system = at.text("model"), at.text("system")
    trials = 5 if scale.quick else 8
    searched = found(
        f"E3 {scale.name} {model} {system}",
        lambda: _searched(service(model, TRAINING_SEED, scale), system, trials),
    )
    given = service(model, seed, scale)
    trained = " ".join(f"{hours:.5g}:{attained:.5f}" for hours, attained in searched.trials)
    rate = given.workload.rate_per_s
    return {**figures(_evaluated(given, system, searched.best, seed)), "rate": rate, "trained": trained}


def _searched(given: Subject, system: str, trials: int) -> Searched:
    if system in MONOLITHS:
        return _searched_monolith(given, system, trials)
    best = search(given, system, trials=trials, seed=TRAINING_SEED, goal=ATTAINMENT)
    return Searched(best=best, trials=tuple((t.summary.gpu_hours, t.summary.attainment) for t in best.trials))


def _searched_monolith(given: Subject, system: str, trials: int) -> Searched:
    """Halve the targets between one that attains and one that does not."""
    low, high, tried = 0.02, 1.0, []
    for _ in range(trials):
        target = float((low * high) ** 0.5)
        summary = _evaluated(given, system, target, TRAINING_SEED)
        tried.append((summary.gpu_hours, summary.attainment))
        low, high = (target, high) if summary.attainment >= ATTAINMENT else (low, target)
    return Searched(best=low, trials=tuple(tried))


def _evaluated(given: Subject, system: str, best: float | Found, seed: int) -> Summary:
    if isinstance(best, Found):
        return evaluate([given], system, [best.params(given)], seed)
    return summarise(
        simulate(
            monolith_scenario(
                given.tenant(), given.nodes, best, images_in_parallel=MONOLITHS[system], seed=seed
            )
        )
    )


def written(findings: Findings) -> Section:
    """Return GPU-hours at 99 %, and attainment over GPU-hours."""
    parts, plots = [], {}
    measured = findings.points()
    for model in dict.fromkeys(at.text("model") for at in measured):
        base = [point(model=model, system=system) for system in MONOLITHS]
        rows = []
        for at in [at for at in measured if at.text("model") == model]:
            system = at.text("system")
            hours = findings.values(at, "gpu_hours")
            saved = [_saved(hours, findings.values(other, "gpu_hours")) for other in base]
            attained = interval([100.0 * a for a in findings.values(at, "attainment")])
            rows.append((system, interval(hours).text, attained.text, *saved))
        name = f"e3-{model}.svg"
        plots[name] = _curves(findings, model)
        rate = interval(findings.values(point(model=model, system="coupled"), "rate")).text
        heads = ("system", "GPU-hours", "attained %", *[f"over {p.text('system')}" for p in base])
        parts.append(
            f"### {model}, {rate} requests/s on average\n\n{table(heads, rows)}\n"
            f"{_needed(findings, model)}\n![attainment over GPU-hours](results/{name})\n"
        )
    return Section(text="\n".join(parts), plots=plots)


def _needed(findings: Findings, model: str) -> str:
    """Return the fewest GPU-hours that reached an attainment in training, of all that a search tried."""
    rows = []
    for system in (*POLICIES, *MONOLITHS):
        trials = _trials(findings, model, system)
        if trials:
            reached = [[h for h, attained in trials if attained >= level] for level in LEVELS]
            rows.append((system, *[f"{min(hours):,.0f}" if hours else "never" for hours in reached]))
    heads = ("GPU-hours in training for", *[f"{100 * level:g} %" for level in LEVELS])
    return table(heads, rows)


def _trials(findings: Findings, model: str, system: str) -> list[tuple[float, float]]:
    """Return GPU-hours and attainment of each trial, cheapest first; none if the system was not measured."""
    rows = [m.row for m in findings.measured if m.point == point(model=model, system=system)]
    pairs = [trial.partition(":") for trial in str(rows[0]["trained"]).split()] if rows else []
    return sorted((float(hours), float(attained)) for hours, _, attained in pairs)


def _saved(hours: Sequence[float], others: Sequence[float]) -> str:
    found = [100.0 * (ratio - 1.0) for ratio in ratios(hours, others)]
    return f"{interval(found).text} %" if found else "–"


def _curves(findings: Findings, model: str) -> str:
    """Return what each system attained in training, over what it took: the best of all that were cheaper."""
    series = {}
    for system in ("coupled", "modserve", "hpa", "oracle", *MONOLITHS):
        trials = _trials(findings, model, system)
        if trials:
            attained = np.maximum.accumulate([a for _, a in trials])
            series[system] = [(h, 100.0 * a) for (h, _), a in zip(trials, attained, strict=True)]
    most = max((h for line in series.values() for h, _ in line), default=1.0)
    x = linear_axis("GPU-hours", most)
    ticks = tuple((float(p), str(p)) for p in (80, 90, 95, 99, 100))
    return lines_plot(
        f"Attainment over GPU-hours, {model}",
        x,
        Axis(label="attained %", low=80.0, high=100.0, ticks=ticks),
        series,
    )


E3 = Experiment(
    name="E3",
    title="A day with a burst of images on 128 A100s",
    figure="gpu_hours",
    points=points,
    measure=measure,
    expected_s=lambda at, scale: 150.0 if scale.quick else 115.0,
    written=written,
)
