"""E3: what does scaling the stages apart save on a day with a burst of images?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from experiments.monolith import MonolithScaler, as_monolith
from experiments.point import Experiment, Findings, Point, Row, Scale, Section, point
from experiments.services import HOUR_S, day, figures, subject, with_burst
from experiments.stats import Interval, interval, ratios
from experiments.tuned import found
from experiments.write import lines_plot, table
from orchestrator.core.scaling import Params
from orchestrator.simulator.auto_rate import auto_rate_scale
from orchestrator.simulator.axes import Axis, linear_axis
from orchestrator.simulator.evaluate import evaluate
from orchestrator.simulator.run import Scenario, simulate
from orchestrator.simulator.scenario import Subject
from orchestrator.simulator.search import search
from orchestrator.simulator.summary import Summary, summarise

GPUS = 128
FLEET = "a100=16x8"
MODELS = ("internvl-26b", "llama-11b")
MONOLITHS = {"monolith LW": False, "monolith LW DP": True}
"""Whether a replica spreads images over its accelerators."""
POLICIES = ("coupled", "modserve", "heteroscale", "hpa", "static-best", "oracle")
TRAINING_SEED = 1_000
BURST_FACTOR, BURST_S = 15.0, 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """What a search has tried of one system.

    Attributes:
        knob: The monolith's target, or the policy's parameters, of the best trial.
        trials: GPU-hours and attainment of each trial.
    """

    knob: float | Params
    trials: tuple[tuple[float, float], ...]


def service(model: str, seed: int, scale: Scale) -> Subject:
    """Return a day, or its part from 6 to 12 o'clock, with the burst in its middle, at 80 % of the fleet."""
    hours = 6.0 if scale.quick else 24.0
    plain = day(seed, hours=hours, rate=1.0, begin_h=6.0 if scale.quick else 0.0)
    at_s = hours / 2.0 * HOUR_S
    rng = np.random.default_rng((seed, 3))
    burst = with_burst(plain, at_s=at_s, for_s=BURST_S, factor=BURST_FACTOR, rng=rng)
    given = subject(model, burst, FLEET)
    factor = auto_rate_scale(given.control, burst, given.nodes)
    dense = day(seed, hours=hours, rate=factor, begin_h=6.0 if scale.quick else 0.0)
    burst = with_burst(dense, at_s=at_s, for_s=BURST_S, factor=BURST_FACTOR, rng=rng)
    return replace(given, workload=burst)


def points(scale: Scale) -> list[Point]:
    """Return every system for both models."""
    return [point(model=model, system=system) for model in MODELS for system in (*POLICIES, *MONOLITHS)]


def measure(at: Point, seed: int, scale: Scale) -> Row:
    """Return the figures with the cheapest parameters that attained on the training day."""
    model, system = at.text("model"), at.text("system")
    trials = 8 if scale.quick else 16
    curve = found(
        f"E3 {scale.name} {model} {system}",
        lambda: _searched(service(model, TRAINING_SEED, scale), system, trials),
    )
    given = service(model, seed, scale)
    row = dict(figures(_evaluated(given, system, curve.knob, seed)))
    row["requests_per_s"] = given.workload.rate_per_s
    row["trials"] = " ".join(f"{hours:.4g}:{attained:.5f}" for hours, attained in curve.trials)
    row["knob"] = str(curve.knob)
    return row


def _searched(given: Subject, system: str, trials: int) -> Curve:
    if system in MONOLITHS:
        return _searched_monolith(given, system, trials)
    best = search(given, system, trials=trials, seed=TRAINING_SEED)
    tried = tuple((t.summary.gpu_hours, t.summary.attainment) for t in best.trials)
    return Curve(knob=best.best.params if system != "oracle" else _oracle_knobs(best.best.point), trials=tried)


def _searched_monolith(given: Subject, system: str, trials: int) -> Curve:
    """Halve the targets between one that attains and one that does not."""
    low, high, tried = 0.02, 1.0, []
    for _ in range(trials):
        target = (low * high) ** 0.5
        summary = _evaluated(given, system, target, TRAINING_SEED)
        tried.append((summary.gpu_hours, summary.attainment))
        if summary.attainment >= given.control.attainment:
            low = target
        else:
            high = target
    return Curve(knob=low, trials=tuple(tried))


def _evaluated(given: Subject, system: str, knob: float | Params, seed: int) -> Summary:
    if not isinstance(knob, float):
        return evaluate(given, system, knob, seed)
    tenant = as_monolith(given.tenant(), images_in_parallel=MONOLITHS[system], most=GPUS // 4)
    scaler = MonolithScaler(target=knob, images_in_parallel=MONOLITHS[system])
    return summarise(simulate(scaler.scenario(tenant, given.nodes, seed)))
