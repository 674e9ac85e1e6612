"""The scaling policies side by side on the same work."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from orchestrator.core.control_types import ControlPolicy
from orchestrator.core.profile import ColdStart
from orchestrator.core.queueing import servers_needed
from orchestrator.core.scaling import SCALERS
from orchestrator.core.scaling.oracle import OracleParams
from orchestrator.core.scaling.params import Params
from orchestrator.core.scaling.periodic import Hour, PeriodicParams
from orchestrator.core.scaling.static import StaticBestParams
from orchestrator.simulator.prompts import text_tokens
from orchestrator.simulator.run import simulate, speeds
from orchestrator.simulator.scenario import Subject
from orchestrator.simulator.summary import Summary, summarise
from orchestrator.simulator.systems import SYSTEMS
from stages.types import Stage

WINDOW_S = 30.0
"""The oracle sees the load of windows this long."""
_INFORMED = ("oracle", "oracle-zero-lag", "periodic")
_SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25)
"""Fixed counts that are tried: fractions of what the busiest window needs."""


def comparable() -> list[str]:
    """Return the names of the policies that can be compared."""
    return list(SCALERS)


def compare_policies(
    subject: Subject, names: Sequence[str], seed: int, done: Callable[[str], None] = lambda name: None
) -> dict[str, Summary]:
    """Run each policy with its default parameters, the file's own with its own, on the same work."""
    found = {}
    for name in names:
        found[name] = _run(subject, name, seed)
        done(name)
    return found


def _run(subject: Subject, name: str, seed: int) -> Summary:
    if name == "static-best":
        return _static_best(subject, seed)
    params = _informed(subject, name) if name in _INFORMED else None
    scenario = subject.scenario(scaling=name, params=params, seed=seed)
    if name == "oracle-zero-lag":
        scenario = replace(scenario, control=_started_at_once(scenario.control))
    return summarise(simulate(scenario))


def _started_at_once(control: ControlPolicy) -> ControlPolicy:
    at_once = ColdStart(node_s=(0.0, 0.0), pull_s=(0.0, 0.0), load_s=(0.0, 0.0))
    profile = replace(control.profile, cold_start=dict.fromkeys(Stage, at_once))
    return replace(control, profile=profile)


def _static_best(subject: Subject, seed: int) -> Summary:
    """Return the cheapest of the fixed counts that attain the SLO, or else the one that attains most."""
    peak = {stage: int(counts.max()) for stage, counts in needs(subject).items()}
    tried = []
    for share in _SHARES:
        encode, prefill, decode = (max(1, round(peak[stage] * share)) for stage in Stage)
        params = StaticBestParams(encode=encode, prefill=prefill, decode=decode)
        scenario = subject.scenario(scaling="static-best", params=params, seed=seed)
        tried.append(summarise(simulate(scenario)))
    attained = [s for s in tried if (s.groups["all"].attainment or 0.0) >= subject.control.attainment]
    if attained:
        return min(attained, key=lambda s: s.gpu_hours)
    return max(tried, key=lambda s: s.groups["all"].attainment or 0.0)


def _informed(subject: Subject, name: str) -> Params:
    """Return the parameters of a policy that is told what the trace will bring."""
    table = needs(subject)
    if name != "periodic":
        times_s = tuple(WINDOW_S * index for index in range(len(table[Stage.ENCODE])))
        return OracleParams(times_s=times_s, counts={s: tuple(n.tolist()) for s, n in table.items()})
    hour = (np.arange(len(table[Stage.ENCODE])) * WINDOW_S // 3600.0).astype(np.int64) % 24
    return PeriodicParams(
        hours=tuple(
            Hour(hour=int(h), **{str(stage): int(counts[hour == h].max()) for stage, counts in table.items()})
            for h in np.unique(hour)
        )
    )


def needs(subject: Subject) -> dict[Stage, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Return the replicas that each window of the workload needs, by stage; int64, shape [windows].

    Encode and prefill: enough for the 99th percentile of the wait to be within `budget_s`, with the
    variability that the window's own arrivals have. Decode: the output tokens that arrive, spread over
    their own decoding time, at the saturated rate.
    """
    work, control = subject.workload, subject.control
    speed = speeds(control, work, SYSTEMS["e-p-d"])
    windows = max(1, int(np.ceil(work.span_s / WINDOW_S)))
    window = np.minimum((work.arrival_s / WINDOW_S).astype(np.int64), windows - 1)
    images = work.images.astype(np.float64) * control.profile.image_tokens
    prompt = text_tokens(work, control.profile.image_tokens) + control.kappa * images
    counts = {
        Stage.ENCODE: _by_wait(subject, Stage.ENCODE, images, work.images, window, windows, speed.rates),
        Stage.PREFILL: _by_wait(
            subject, Stage.PREFILL, prompt, np.ones_like(work.images), window, windows, speed.rates
        ),
    }
    tokens = np.bincount(window, work.output_tokens, windows) / WINDOW_S
    counts[Stage.DECODE] = np.ceil(tokens / speed.rates[Stage.DECODE]).astype(np.int64)
    return {
        stage: np.clip(found, max(1, control.stages[stage].min), control.stages[stage].max)
        for stage, found in counts.items()
    }


def _by_wait(
    subject: Subject,
    stage: Stage,
    units: np.ndarray[tuple[int], np.dtype[np.float64]],
    jobs: np.ndarray[tuple[int], np.dtype[np.int32]],
    window: np.ndarray[tuple[int], np.dtype[np.int64]],
    windows: int,
    rates: Mapping[Stage, float],
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
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
