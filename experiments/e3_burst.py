"""E3: what does scaling the stages apart save on a day with a burst of images?"""

from dataclasses import dataclass

import numpy as np

from experiments.e3_written import MONOLITHS, POLICIES, written
from experiments.monolith import monolith_scenario
from experiments.point import Experiment, Point, Row, Scale, point
from experiments.services import day, figures, subject, with_burst
from experiments.tuned import found
from orchestrator.simulator.auto_rate import auto_rate_scale
from orchestrator.simulator.evaluate import evaluate
from orchestrator.simulator.run import simulate
from orchestrator.simulator.scenario import Subject
from orchestrator.simulator.search import Found, search
from orchestrator.simulator.summary import HOUR_S, Summary, summarise

FLEETS = {"internvl-26b": "a100=16x8", "llama-11b": "a100=4x8"}
"""The smaller model gets a smaller fleet, for otherwise its day has three million requests."""
TRAINING_SEED = 1_000
BURST_FACTOR, BURST_S = 12.0, 300.0
ATTAINMENT = 0.99


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
    hours, begin_h = (1.0, 9.5) if scale.quick else (6.0, 7.0)

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
    """Return every system for both models, or for the one with kappa 1."""
    models = list(FLEETS)[:1] if scale.quick else FLEETS
    return [point(model=model, system=system) for model in models for system in (*POLICIES, *MONOLITHS)]


def measure(at: Point, seed: int, scale: Scale) -> Row:
    """Return the figures with the cheapest parameters that attained on the training day."""
    model, system = at.text("model"), at.text("system")
    trials = 2 if scale.quick else 8
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


E3 = Experiment(
    name="E3",
    title="A day with a burst of images on 128 A100s",
    figure="gpu_hours",
    points=points,
    measure=measure,
    expected_s=lambda at, scale: 38.0 if scale.quick else 115.0,
    written=written,
)
