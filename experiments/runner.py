"""Measures the points of experiments in processes side by side, and goes on where it was stopped."""

import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context

from experiments.point import Experiment, Findings, Measured, Point, Row, Scale
from experiments.stats import precise
from experiments.store import Store
from stages.orphans import die_with_parent
from stages.stopping import told_to_stop

_HEEDS_S = 0.2
"""How often a run looks whether it was told to stop."""

Report = Callable[[str, Measured, float], None]
"""Hears of each measurement: the experiment's name, what came out, and the seconds of work that remain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What is left to measure.

    Attributes:
        runs: Measurements, the fewest.
        work_s: Seconds that they are expected to take one after the other.
    """

    runs: int
    work_s: float


@dataclass(slots=True)
class Progress:
    """One experiment under way."""

    experiment: Experiment
    scale: Scale
    store: Store
    measured: list[Measured]
    code: str

    def missing(self) -> list[tuple[Point, int]]:
        """Return what is known to be needed next; every point's first seed before any second."""
        needed = []
        for point in self.experiment.points(self.scale):
            have = {m.seed for m in self.measured if m.point == point}
            needed += [(point, seed) for seed in range(self._enough(point, have)) if seed not in have]
        return sorted(needed, key=lambda each: each[1])

    def budget(self) -> Budget:
        """Return what is left."""
        missing = self.missing()
        return Budget(
            runs=len(missing), work_s=sum(self.experiment.expected_s(p, self.scale) for p, _ in missing)
        )

    def _enough(self, point: Point, have: set[int]) -> int:
        fewest, most = self.scale.seeds
        if len(have) < fewest or self.experiment.figure is None:
            return fewest
        values = [m.row.get(self.experiment.figure) for m in self.measured if m.point == point]
        known = [float(value) for value in values if isinstance(value, int | float)]
        if len(known) < 2 or precise(known, self.scale.tolerance):
            return len(have)
        return min(most, len(have) + 1)

    def findings(self) -> Findings:
        """Return what there is, in the order of the experiment."""
        order = {point: place for place, point in enumerate(self.experiment.points(self.scale))}
        known = [m for m in self.measured if m.point in order]
        return Findings(scale=self.scale, measured=sorted(known, key=lambda m: (order[m.point], m.seed)))


def measured_at(
    measure: Callable[[Point, int, Scale], Row], point: Point, seed: int, scale: Scale, code: str
) -> Measured:
    """Measure one point with one seed."""
    began_s = time.perf_counter()
    row = measure(point, seed, scale)
    wall_s = round(time.perf_counter() - began_s, 2)
    return Measured(point=point, seed=seed, row=row, wall_s=wall_s, code=code)


def run_all(progresses: Sequence[Progress], jobs: int, report: Report) -> None:
    """Measure until every experiment has what it needs.

    Args:
        progresses: The experiments.
        jobs: Processes side by side.
        report: Hears of each measurement, after it was kept.

    Raises:
        KeyboardInterrupt: It was stopped; what was measured is kept and the processes are gone.
    """
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_as_child)
    try:
        with told_to_stop() as told:
            for progress in progresses:
                _run(progress, pool, jobs, report, told)
    except BaseException:
        for process in list(pool._processes.values()):  # there is no other way to stop one that works
            process.terminate()
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def _run(
    progress: Progress, pool: ProcessPoolExecutor, jobs: int, report: Report, told: threading.Event
) -> None:
    running: dict[Future[Measured], tuple[Point, int]] = {}
    while True:
        if told.is_set():
            raise KeyboardInterrupt
        waiting = [each for each in progress.missing() if each not in running.values()]
        for point, seed in waiting[: jobs - len(running)]:
            future = pool.submit(
                measured_at, progress.experiment.measure, point, seed, progress.scale, progress.code
            )
            running[future] = (point, seed)
        if not running:
            return
        for future in wait(running, _HEEDS_S, FIRST_COMPLETED).done:
            del running[future]
            measured = future.result()
            progress.store.add(measured)
            progress.measured.append(measured)
            report(progress.experiment.name, measured, progress.budget().work_s)


def _as_child() -> None:
    """Leave Ctrl-C to the process that began it all, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
