"""E5: which signals tell the load of a stage?"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from experiments.closed_loops import TRAINING_SEED, looped, searched
from experiments.e5_table import SIGNALS, D, E, P
from experiments.point import Experiment, Findings, Point, Row, Scale, Section, point
from experiments.services import day, subject, with_burst
from experiments.stats import interval
from experiments.tuned import found
from experiments.write import table
from orchestrator.core.decide import Decision
from orchestrator.core.observed import Snapshot
from orchestrator.core.scaling.static import StaticParams
from orchestrator.simulator.auto_rate import accelerator_s
from orchestrator.simulator.regimes import with_known_images
from orchestrator.simulator.run import simulate
from orchestrator.simulator.summary import HOUR_S
from orchestrator.simulator.workload import Workload
from orchestrator.simulator.world import TICK_S
from stages.types import Stage

LOADS = ("diurnal", "image burst", "length drift", "cache-hit drift")
_WINDOW = 13
"""Ticks of the moving mean that counts as the load: a minute."""
_LAGS = 60
"""Ticks by which a signal is moved at most: five minutes."""

LOOPED: Mapping[str, tuple[Stage, ...]] = {
    "diurnal": (E, P, D),
    "image burst": (E, P),
    "length drift": (D,),
    "cache-hit drift": (E,),
}
"""Stages whose load changes: only their signals are tried in loops."""


@dataclass(slots=True)
class Watcher:
    """Keeps every signal at every tick; NaN where there was none."""

    times_s: list[float] = field(default_factory=list)
    seen: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in SIGNALS})

    def __call__(self, now_s: float, snapshot: Snapshot, decision: Decision) -> None:
        """Hear of a decision."""
        (signals,) = decision.signals.values()
        self.times_s.append(now_s)
        for name, signal in SIGNALS.items():
            value = signal.of(signals)
            self.seen[name].append(np.nan if value is None else value)


def load(kind: str, seed: int, scale: Scale) -> Workload:
    """Return requests that change in one way."""
    hours = 2.0 if scale.quick else 12.0
    work = day(seed, hours=hours, rate=2.0, begin_h=6.0)
    rng = np.random.default_rng((seed, 5))
    share = work.arrival_s / work.span_s
    if kind == "image burst":
        return with_burst(work, at_s=hours / 2 * HOUR_S, for_s=600.0, factor=8.0, rng=rng)
    if kind == "length drift":
        longer = np.rint(work.output_tokens * (1.0 + 3.0 * share)).astype(np.int32)
        return replace(work, output_tokens=longer)
    if kind == "cache-hit drift":
        known = rng.random(len(work)) < share
        return with_known_images(work, known, rng)
    return work


def points(scale: Scale) -> list[Point]:
    """Return the loads, and the loops under each, or under the first."""
    looped = LOADS[:1] if scale.quick else LOADS
    loops = [point(load=kind, signal=name) for kind in looped for name in _looped(kind)]
    return [*[point(load=kind) for kind in LOADS], *loops]


def _looped(kind: str) -> list[str]:
    return [name for name, signal in SIGNALS.items() if signal.stage in LOOPED[kind]]


def measure(at: Point, seed: int, scale: Scale) -> Row:
    """Return R², signal over noise and lag of each signal, or what one of them comes to in a loop."""
    kind, names = at.text("load"), dict(at.factors)
    if "signal" in names:
        return _in_loop(str(names["signal"]), kind, seed, 3 if scale.quick else 6)
    return _open(kind, seed, scale)


def _in_loop(name: str, kind: str, seed: int, trials: int) -> Row:
    signal = SIGNALS[name]
    target = found(
        f"E5 {name} {kind} {trials}",
        lambda: searched(signal, trials, lambda target: looped(signal, target, kind, TRAINING_SEED)),
    )
    summary = looped(signal, target, kind, seed)
    return {
        "gpu_hours": summary.gpu_hours_by_stage[signal.stage],
        "attainment": summary.attainment,
        "events": float(summary.scale_events[signal.stage]),
        "target": target,
    }


def _open(kind: str, seed: int, scale: Scale) -> Row:
    """Watch every signal with replicas that are fixed and enough."""
    work = load(kind, seed, scale)
    given = subject("internvl-26b", work, "a100=16x8")
    gpu_s = accelerator_s(given.control, work)
    counts = {
        s: max(2, round(float(each.sum()) / work.span_s / given.control.stages[s].tp / 0.4))
        for s, each in gpu_s.items()
    }
    params = StaticParams(encode=counts[E], prefill=counts[P], decode=counts[D])
    watcher = Watcher()
    simulate(given.scenario(scaling="static", params=params, seed=seed), watch=watcher)
    times_s = np.array(watcher.times_s)
    inside = times_s < work.span_s
    row: dict[str, float | str | None] = {}
    for name, signal in SIGNALS.items():
        truth = _smooth(_per_tick(work, gpu_s[signal.stage], times_s))[inside]
        seen = np.array(watcher.seen[name])[inside]
        for figure, value in zip(("r2", "snr_db", "lag_s"), judged(truth, seen), strict=True):
            row[f"{name} {figure}"] = value
    return row


def _per_tick(
    work: Workload, gpu_s: NDArray[np.float64], times_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the accelerators that the work that arrived before each tick would keep busy."""
    tick = np.minimum((work.arrival_s // TICK_S).astype(np.int64), len(times_s) - 1)
    busy: NDArray[np.float64] = np.bincount(tick, gpu_s, len(times_s)) / TICK_S
    return busy


def _smooth(values: NDArray[np.float64], ticks: int = _WINDOW) -> NDArray[np.float64]:
    kernel = np.ones(ticks)
    smooth: NDArray[np.float64] = np.convolve(values, kernel, "same") / np.convolve(
        np.ones_like(values), kernel, "same"
    )
    return smooth


def judged(
    truth: NDArray[np.float64], seen: NDArray[np.float64]
) -> tuple[float | None, float | None, float | None]:
    """Return how well a signal tells a load.

    Args:
        truth: The load at each tick.
        seen: The signal; NaN where there was none.

    Returns:
        R² of the best straight line at the best lag; 10·log10 of the variance of its five-minute mean over
        that of the rest; and that lag in seconds, above 0 if the signal comes late. None if it never varies.
    """
    known = ~np.isnan(seen)
    if known.sum() < 4 * _LAGS or np.std(seen[known]) < 1e-12:
        return None, None, None
    filled = np.interp(np.arange(len(seen)), np.flatnonzero(known), seen[known])
    r2, lag = max((_r2(truth, filled, lag), -abs(lag), lag) for lag in range(-_LAGS, _LAGS + 1))[::2]
    trend = _smooth(filled, 5 * _WINDOW)
    noise = float(np.var(filled - trend))
    snr_db = 10.0 * float(np.log10(max(1e-12, float(np.var(trend))) / max(1e-12, noise)))
    return r2, snr_db, lag * TICK_S


def _r2(truth: NDArray[np.float64], seen: NDArray[np.float64], lag: int) -> float:
    if lag > 0:
        truth, seen = truth[:-lag], seen[lag:]
    elif lag < 0:
        truth, seen = truth[-lag:], seen[:lag]
    if not (np.ptp(truth) and np.ptp(seen)):
        return 0.0  # where one of them stands still, it tells nothing of the other
    return float(np.corrcoef(truth, seen)[0, 1] ** 2)


def written(findings: Findings) -> Section:
    """Return a table of signals for each load."""
    heads = ("signal", "R²", "SNR dB", "lag s", "in a loop: GPU-hours", "attained %", "scale events")
    parts = [
        f"### {kind}\n\n{table(heads, [_row(findings, kind, name) for name in SIGNALS])}" for kind in LOADS
    ]
    return Section(text="\n".join([*parts, _straightest(findings)]), plots={})


def _straightest(findings: Findings) -> str:
    """Say which signal of each stage follows its load best, over all loads."""
    lines = []
    for stage in Stage:
        straight = {
            name: [interval(findings.values(point(load=kind), f"{name} r2")).mean for kind in LOADS]
            for name, signal in SIGNALS.items()
            if signal.stage is stage
        }
        best = max(straight, key=lambda name: sum(straight[name]))
        low, high = min(straight[best]), max(straight[best])
        lines.append(f"- {stage}: straightest over all loads is {best}, R² {low:.2f} to {high:.2f}.\n")
    return "".join(lines)


def _row(findings: Findings, kind: str, name: str) -> list[str]:
    seen, loop = point(load=kind), point(load=kind, signal=name)
    cells = [interval(findings.values(seen, f"{name} {figure}")).text for figure in ("r2", "snr_db", "lag_s")]
    for figure, factor in (("gpu_hours", 1.0), ("attainment", 100.0), ("events", 1.0)):
        cells.append(interval([factor * value for value in findings.values(loop, figure)]).text)
    return [name, *cells]


def _expected_s(at: Point, scale: Scale) -> float:
    if "signal" in dict(at.factors):
        return 12.0 if scale.quick else 6.0  # the search takes most of it, once for all seeds
    return 7.0 if scale.quick else 35.0


E5 = Experiment(
    name="E5",
    title="Which signals tell the load of a stage",
    figure=None,
    points=points,
    measure=measure,
    expected_s=_expected_s,
    written=written,
)
