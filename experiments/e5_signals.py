"""E5: which signals tell the load of a stage?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from experiments.point import Experiment, Findings, Point, Row, Scale, Section, point
from experiments.services import day, subject, with_burst
from experiments.stats import interval
from experiments.write import table
from orchestrator.core.decide import Decision
from orchestrator.core.observed import Signals, Snapshot
from orchestrator.core.scaling.static import StaticParams
from orchestrator.simulator.auto_rate import accelerator_s
from orchestrator.simulator.run import simulate
from orchestrator.simulator.summary import HOUR_S
from orchestrator.simulator.workload import Workload
from orchestrator.simulator.world import TICK_S
from stages.types import Stage

E, P, D = Stage
LOADS = ("diurnal", "image burst", "length drift", "cache-hit drift")
_WINDOW = 13
"""Ticks of the moving mean that counts as the load: a minute."""
_LAGS = 60
"""Ticks by which a signal is moved at most: five minutes."""

SIGNALS: Mapping[str, tuple[Stage, Callable[[Signals], float | None]]] = {
    "E offered tokens/s": (E, lambda s: s.stages[E].offered),
    "E done tokens/s": (E, lambda s: s.stages[E].done),
    "E utilisation": (E, lambda s: s.stages[E].utilisation),
    "E backlog": (E, lambda s: s.stages[E].waiting_units),
    "E wait": (E, lambda s: s.stages[E].wait_s),
    "P offered tokens/s": (P, lambda s: s.stages[P].offered),
    "P cache-missed tokens/s": (P, lambda s: s.stages[P].done),
    "P utilisation": (P, lambda s: s.stages[P].utilisation),
    "P backlog": (P, lambda s: s.stages[P].waiting_units),
    "P wait": (P, lambda s: s.stages[P].wait_s),
    "TTFT p99": (P, lambda s: s.ttft_ratio),
    "D tokens/s": (D, lambda s: s.stages[D].done),
    "D utilisation": (D, lambda s: s.stages[D].utilisation),
    "D KV usage": (D, lambda s: s.stages[D].kv_usage),
    "TPOT p99": (D, lambda s: s.tpot_ratio),
}
"""Each with the stage whose load it might tell."""


@dataclass(slots=True)
class Watcher:
    """Keeps every signal at every tick; NaN where there was none."""

    times_s: list[float] = field(default_factory=list)
    seen: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in SIGNALS})

    def __call__(self, now_s: float, snapshot: Snapshot, decision: Decision) -> None:
        """Hear of a decision."""
        (signals,) = decision.signals.values()
        self.times_s.append(now_s)
        for name, (_, of) in SIGNALS.items():
            value = of(signals)
            self.seen[name].append(np.nan if value is None else value)


def load(kind: str, seed: int, scale: Scale) -> Workload:
    """Return requests that change in one way."""
    hours = 3.0 if scale.quick else 12.0
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
        content = np.where(known, rng.integers(0, 50, len(work)), 1_000 + np.arange(len(work)))
        return replace(work, content_ids=content)
    return work


def points(scale: Scale) -> list[Point]:
    """Return the loads."""
    return [point(load=kind) for kind in LOADS]


def measure(at: Point, seed: int, scale: Scale) -> Row:
    """Return R², signal over noise and lag of each signal, with replicas that are fixed and enough."""
    work = load(at.text("load"), seed, scale)
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
    for name, (stage, _) in SIGNALS.items():
        truth = _smooth(_per_tick(work, gpu_s[stage], times_s))[inside]
        seen = np.array(watcher.seen[name])[inside]
        found = judged(truth, seen)
        for figure, value in zip(("r2", "snr_db", "lag_s"), found, strict=True):
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
    return float(np.corrcoef(truth, seen)[0, 1] ** 2)


def written(findings: Findings) -> Section:
    """Return a table of signals for each load."""
    parts = []
    for kind in LOADS:
        at = point(load=kind)
        rows = [
            (
                name,
                *[
                    interval(findings.values(at, f"{name} {figure}")).text
                    for figure in ("r2", "snr_db", "lag_s")
                ],
            )
            for name in SIGNALS
        ]
        parts.append(f"### {kind}\n\n{table(('signal', 'R²', 'SNR dB', 'lag s'), rows)}")
    return Section(text="\n".join(parts), plots={})


E5 = Experiment(
    name="E5",
    title="Which signals tell the load of a stage",
    figure=None,
    points=points,
    measure=measure,
    expected_s=lambda at, scale: 15.0 if scale.quick else 60.0,
    written=written,
)
