"""The rate at which a trace nearly fills a fleet."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.observed import Node
from orchestrator.core.planned import ControlPolicy
from orchestrator.simulator.servable import servable
from orchestrator.simulator.systems import SYSTEMS
from orchestrator.simulator.tenant import speeds
from orchestrator.simulator.traces import Notes
from orchestrator.simulator.work import work_from_rows
from orchestrator.simulator.workload import Workload
from stages.types import Stage

PEAK_S = 300.0
FULL = 0.8
"""Part of the fleet that the busiest five minutes shall take."""


class RateError(ValueError):
    """There is no rate that nearly fills the fleet."""


def chosen_rate(
    wanted: float | Literal["auto"], control: ControlPolicy, work: Workload, nodes: Sequence[Node]
) -> tuple[float, Notes]:
    """Return the factor on the rate, and of `auto` a note that says it.

    `auto` is `auto_rate_scale` in four digits, so that who gives these gets the same requests.

    Raises:
        RateError: See `auto_rate_scale`.
    """
    if wanted != "auto":
        return wanted, ()
    rate = float(f"{auto_rate_scale(control, work, nodes):.4g}")
    peaks = _peaks(_on(control, {node.hardware for node in nodes}), work)
    counts = {s: rate * peak / FULL / control.stages[s].tp for s, peak in peaks.items()}
    best = ", ".join(f"{stage} {count:.1f}" for stage, count in counts.items())
    return rate, (
        f"rate scale {rate:g}: each stage's busiest 5 minutes take {100 * FULL:g} % of the best fixed counts "
        f"that the fleet has room for, not rounded: {best}",
    )


def auto_rate_scale(control: ControlPolicy, work: Workload, nodes: Sequence[Node]) -> float:
    """Return the factor on the rate at which the busiest five minutes take `FULL` of the fleet.

    That is of the fleet under the best fixed counts: those in proportion to what each stage's own busiest
    five minutes take, whenever these are, since fixed counts cannot follow. Demand is counted in
    accelerators that would be busy all the time at the saturated rates, and counts are not rounded. Each
    stage is on its first hardware that the fleet has; the scarcest hardware decides.

    Raises:
        RateError: There are no requests, or none of a stage's hardware.
    """
    there: dict[str, int] = {}
    for node in nodes:
        there[node.hardware] = there.get(node.hardware, 0) + node.accelerators
    control = _on(control, there)
    peaks: dict[str, float] = {}
    for stage, peak in _peaks(control, work).items():
        hardware = control.stages[stage].hardware[0]
        peaks[hardware] = peaks.get(hardware, 0.0) + peak
    factors = [FULL * there[hardware] / peak for hardware, peak in peaks.items() if peak > 0.0]
    if not factors:
        raise RateError("auto needs requests")
    return min(factors)


def _on(control: ControlPolicy, there: Collection[str]) -> ControlPolicy:
    """Return the policy with each stage on what the fleet has of its hardware."""
    stages = {}
    for stage, bounds in control.stages.items():
        usable = tuple(each for each in bounds.hardware if each in there)
        if not usable:
            raise RateError(f"the fleet has nothing that {stage} runs on: {', '.join(bounds.hardware)}")
        stages[stage] = replace(bounds, hardware=usable)
    return replace(control, stages=stages)


def _peaks(control: ControlPolicy, work: Workload) -> dict[Stage, float]:
    """Return the accelerators that each stage keeps busy in its busiest five minutes."""
    window = (work.arrival_s // PEAK_S).astype(np.int64)
    return {
        stage: float((np.bincount(window, each_s) / PEAK_S).max(initial=0.0))
        for stage, each_s in accelerator_s(control, work).items()
    }


def accelerator_s(control: ControlPolicy, work: Workload) -> dict[Stage, NDArray[np.float64]]:
    """Return the accelerator-seconds of each request by stage at the saturated rates; float64 [requests].

    Of one that no replica has room for, 0.0.
    """
    asked, system = work_from_rows(work, control.profile), SYSTEMS["e-p-d"]
    rates, fits = speeds(control, work, system).rates, servable(control, work, system)
    units: tuple[NDArray[np.int64], ...] = (
        asked.image_tokens,
        asked.prompt_tokens,
        work.output_tokens.astype(np.int64),
    )
    return {
        stage: fits * of_stage * np.float64(control.stages[stage].tp / rates[stage])
        for stage, of_stage in zip(Stage, units, strict=True)
    }
