"""What every window of a workload needs: for policies that are told the future, and to begin a search."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.queueing import servers_needed
from orchestrator.simulator.scenario import Subject
from orchestrator.simulator.systems import SYSTEMS
from orchestrator.simulator.tenant import speeds
from orchestrator.simulator.work import work_from_rows
from stages.types import Stage

WINDOW_S = 30.0
"""The future is known in windows this long."""


def needs(subject: Subject) -> dict[Stage, NDArray[np.int64]]:
    """Return the replicas that each window of the workload needs, by stage; int64, shape [windows].

    Encode and prefill: enough for the 99th percentile of the wait to be within `budget_s`, with the
    variability that the window's own arrivals have. Decode: the output tokens that arrive, spread over
    their own decoding time, at the saturated rate.
    """
    work, control = subject.workload, subject.control
    rates = speeds(control, work, SYSTEMS["e-p-d"]).rates
    windows = max(1, int(np.ceil(work.span_s / WINDOW_S)))
    window = np.minimum((work.arrival_s / WINDOW_S).astype(np.int64), windows - 1)
    asked = work_from_rows(work, control.profile)
    counts = {
        Stage.ENCODE: _by_wait(
            subject, Stage.ENCODE, asked.image_tokens, work.images, window, windows, rates
        ),
        Stage.PREFILL: _by_wait(
            subject,
            Stage.PREFILL,
            asked.prompt_tokens,
            np.ones_like(work.images),
            window,
            windows,
            rates,
        ),
    }
    tokens = np.bincount(window, work.output_tokens, windows) / WINDOW_S
    counts[Stage.DECODE] = np.ceil(tokens / rates[Stage.DECODE]).astype(np.int64)
    return {
        stage: np.clip(found, max(1, control.stages[stage].min), control.stages[stage].max)
        for stage, found in counts.items()
    }


def _by_wait(
    subject: Subject,
    stage: Stage,
    units: NDArray[np.int64],
    jobs: NDArray[np.int32],
    window: NDArray[np.int64],
    windows: int,
    rates: Mapping[Stage, float],
) -> NDArray[np.int64]:
    budget_s, rate = subject.control.stages[stage].budget_s, rates[stage]
    work = np.bincount(window, units, windows)
    count = np.bincount(window, jobs, windows)
    bins = max(1, int(subject.workload.span_s / budget_s))
    per_bin = np.bincount(np.minimum((subject.workload.arrival_s / budget_s).astype(np.int64), bins), units)
    mean_job = units.sum() / max(1.0, float(jobs.sum()))
    variability = float(np.var(per_bin) / max(1e-9, per_bin.mean() * mean_job))
    found = np.zeros(windows, np.int64)
    for index in np.flatnonzero(count):
        job_s = work[index] / count[index] / rate
        offered = work[index] / WINDOW_S / rate
        found[index] = int(np.ceil(servers_needed(float(offered), float(job_s), variability, budget_s)))
    return found
