"""What every window of a workload needs: for policies that are told the future, and to begin a search."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.queueing import servers_needed
from orchestrator.core.scaling.oracle import OracleParams
from orchestrator.core.scaling.periodic import Hour, PeriodicParams
from orchestrator.simulator.scenario import Subject
from orchestrator.simulator.servable import served
from orchestrator.simulator.summary import HOUR_S
from orchestrator.simulator.systems import SYSTEMS
from orchestrator.simulator.tenant import speeds
from orchestrator.simulator.work import work_from_rows
from stages.types import Stage

WINDOW_S = 30.0
"""The future is known in windows this long."""

Needs = Mapping[Stage, NDArray[np.float64]]


def foreseen(
    subject: Subject, *, encode: float = 1.0, language: float = 1.0, ahead_s: float = 0.0
) -> OracleParams:
    """Return the parameters of the oracles: what every window will need.

    Args:
        subject: Whose workload is known.
        encode: Factor on encode's needs before they are rounded.
        language: Likewise of prefill and decode.
        ahead_s: A count is also held for what will be needed so much later than a start takes.
    """
    table = counts(subject, unrounded(subject), encode=encode, language=language)
    windows = 1 + int(ahead_s / WINDOW_S)
    times_s = tuple(WINDOW_S * index for index in range(len(table[Stage.ENCODE])))
    held = {stage: _highest_ahead(found, windows) for stage, found in table.items()}
    return OracleParams(times_s=times_s, counts={s: tuple(n.tolist()) for s, n in held.items()})


def timetable(
    subject: Subject, *, encode: float = 1.0, language: float = 1.0, quantile: float = 1.0
) -> PeriodicParams:
    """Return the parameters of periodic: what each hour of the day needs.

    Args:
        subject: Whose workload is known.
        encode: Factor on encode's needs before they are rounded.
        language: Likewise of prefill and decode.
        quantile: Fraction of an hour's windows that its counts suffice for.
    """
    table = unrounded(subject)
    hour = (np.arange(len(table[Stage.ENCODE])) * WINDOW_S // HOUR_S).astype(np.int64) % 24
    hours = np.unique(hour)
    by_hour = {
        stage: np.array([np.quantile(found[hour == h], quantile) for h in hours])
        for stage, found in table.items()
    }
    rounded = counts(subject, by_hour, encode=encode, language=language)
    return PeriodicParams(
        hours=tuple(
            Hour(hour=int(h), **{str(stage): int(found[index]) for stage, found in rounded.items()})
            for index, h in enumerate(hours)
        )
    )


def needs(subject: Subject) -> dict[Stage, NDArray[np.int64]]:
    """Return the replicas that each window of the workload needs, by stage; int64, shape [windows]."""
    return counts(subject, unrounded(subject))


def counts(
    subject: Subject, found: Needs, *, encode: float = 1.0, language: float = 1.0
) -> dict[Stage, NDArray[np.int64]]:
    """Return needs times a factor as whole replicas within the bounds, one at least."""
    factors = {Stage.ENCODE: encode, Stage.PREFILL: language, Stage.DECODE: language}
    bounds = subject.control.stages
    return {
        stage: np.clip(
            np.ceil(need * factors[stage]).astype(np.int64), max(1, bounds[stage].min), bounds[stage].max
        )
        for stage, need in found.items()
    }


def unrounded(subject: Subject) -> Needs:
    """Return the replicas that each window of the workload needs, by stage; shape [windows].

    Encode and prefill: enough for the 99th percentile of the wait to be within `budget_s`, with the
    variability that the window's own arrivals have. Decode: the output tokens that arrive, spread over
    their own decoding time, at the saturated rate.
    """
    control, system = subject.control, SYSTEMS["e-p-d"]
    work = served(control, subject.workload, system)
    subject = replace(subject, workload=work)
    rates = speeds(control, work, system).rates
    windows = max(1, int(np.ceil(work.span_s / WINDOW_S)))
    window = np.minimum((work.arrival_s / WINDOW_S).astype(np.int64), windows - 1)
    asked, each = work_from_rows(work, control.profile), np.ones_like(work.images)
    prompts = asked.prompt_tokens
    tokens = np.bincount(window, work.output_tokens, windows) / WINDOW_S
    return {
        Stage.ENCODE: _by_wait(
            subject, Stage.ENCODE, asked.image_tokens, work.images, window, windows, rates
        ),
        Stage.PREFILL: _by_wait(subject, Stage.PREFILL, prompts, each, window, windows, rates),
        Stage.DECODE: tokens / rates[Stage.DECODE],
    }


def _highest_ahead(found: NDArray[np.int64], windows: int) -> NDArray[np.int64]:
    """Return the highest of each window and those after it, so many in all."""
    padded = np.concatenate([found, np.zeros(windows - 1, np.int64)])
    highest: NDArray[np.int64] = np.lib.stride_tricks.sliding_window_view(padded, windows).max(axis=1)
    return highest


def _by_wait(
    subject: Subject,
    stage: Stage,
    units: NDArray[np.int64],
    jobs: NDArray[np.int32],
    window: NDArray[np.int64],
    windows: int,
    rates: Mapping[Stage, float],
) -> NDArray[np.float64]:
    budget_s, rate = subject.control.stages[stage].budget_s, rates[stage]
    work = np.bincount(window, units, windows)
    count = np.bincount(window, jobs, windows)
    bins = max(1, int(subject.workload.span_s / budget_s))
    per_bin = np.bincount(np.minimum((subject.workload.arrival_s / budget_s).astype(np.int64), bins), units)
    mean_job = units.sum() / max(1.0, float(jobs.sum()))
    variability = float(np.var(per_bin) / max(1e-9, per_bin.mean() * mean_job))
    found = np.zeros(windows)
    for index in np.flatnonzero(count):
        job_s = work[index] / count[index] / rate
        offered = work[index] / WINDOW_S / rate
        found[index] = servers_needed(float(offered), float(job_s), variability, budget_s)
    return found
