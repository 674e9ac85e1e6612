"""Goodput: the highest rate at which enough requests meet an SLO, for fixed replicas of a system."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from experiments.fleets import packed
from orchestrator.control_policy import Hardware
from orchestrator.core.capacity import isolated_ttft_s
from orchestrator.core.planned import ControlPolicy
from orchestrator.core.profile import HardwareClass
from orchestrator.policy import Policy
from orchestrator.simulator.auto_rate import accelerator_s
from orchestrator.simulator.fleet_spec import parse_fleet
from orchestrator.simulator.outcomes import Outcomes
from orchestrator.simulator.run import Scenario, simulate
from orchestrator.simulator.tenant import Tenant
from orchestrator.simulator.work import work_from_rows
from orchestrator.simulator.workload import Workload
from stages.types import Stage

ATTAINMENT = 0.99
RATE_STEP = 1.04
"""Rates are powers of this: goodput is known to 4 %."""
_STEPS = 104
"""From the lowest rate tried to the one at which no accelerator would ever rest: a factor of 59."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A system and its fixed replicas.

    Attributes:
        system: A key of `SYSTEMS`.
        counts: Replicas of each pool, by its first stage.
        tp: Accelerators of a replica of each pool, by its first stage; else the policy's.
        in_order: First come, first served, instead of by slack.
    """

    system: str
    counts: Mapping[Stage, int]
    tp: Mapping[Stage, int]
    in_order: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What layouts are compared on.

    Attributes:
        work: The requests that are offered, at any rate in the same order.
    """

    policy: Policy
    control: ControlPolicy
    fleet: str
    work: Workload


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slowdown:
    """How much slower requests were than alone: arrays of one entry a request, infinite without an answer."""

    ttft: NDArray[np.float64]
    tpot: NDArray[np.float64]

    def attainment(self, factor: float) -> float:
        """Return the fraction within `factor` times the isolated times to and between tokens."""
        return float(np.mean((self.ttft <= factor) & (self.tpot <= factor)))


def compressed(work: Workload, rate_per_s: float) -> Workload:
    """Return the same requests in less or more time, so that they come at this rate."""
    return work.scaled(time=work.rate_per_s / rate_per_s)


def slowdown(bench: Bench, layout: Layout, rate_per_s: float, seed: int) -> Slowdown:
    """Simulate a layout under a rate."""
    work = compressed(bench.work, rate_per_s)
    control = replace(
        bench.control,
        stages={s: replace(b, tp=layout.tp.get(s, b.tp)) for s, b in bench.control.stages.items()},
    )
    policy = bench.policy
    if layout.in_order:
        policy = replace(policy, admission=replace(policy.admission, age_s=0.0))
    nodes = parse_fleet(bench.fleet, control.levels)
    tenant = Tenant(
        policy=policy,
        control=control,
        workload=work,
        links=Hardware.load().links.of_levels(control.levels),
        system=layout.system,
    )
    first = packed(control, layout.counts, nodes)
    scenario = Scenario(tenants=(tenant,), nodes=nodes, first=first, scaled=False, seed=seed)
    return _slowdown(simulate(scenario).only.outcomes, bench, work)


def _slowdown(outcomes: Outcomes, bench: Bench, work: Workload) -> Slowdown:
    ttft_s, tpot_s = alone_s(bench.control, work)
    return Slowdown(
        ttft=np.nan_to_num(outcomes.ttft_s / ttft_s, nan=np.inf),
        tpot=np.nan_to_num(outcomes.tpot_s / tpot_s, nan=np.inf),
    )


def alone_s(control: ControlPolicy, work: Workload) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return times to and between tokens of each request alone on the reference, float64 [requests].

    The reference is the same for all systems: a replica of the policy's prefill and decode, and as many
    accelerators side by side for the encoder as prefill has.
    """
    asked, profile = work_from_rows(work, control.profile), control.profile
    encode, prefill, decode = (HardwareClass(b.hardware[0], b.tp) for b in (control.stages[s] for s in Stage))
    sizes, which = np.unique(np.stack([work.images, asked.text_tokens]), axis=1, return_inverse=True)
    ttft_s = [
        isolated_ttft_s(
            profile, encode, prefill, images=images, text_tokens=tokens, images_at_once=prefill.tp
        )
        for images, tokens in sizes.T.tolist()
    ]
    timing, alive = profile.decode[decode], asked.prompt_tokens + work.output_tokens / 2.0
    itl_s = timing.step_s + timing.sequence_s + timing.context_token_s * alive
    return np.array(ttft_s)[which.reshape(-1)], itl_s


def goodputs(run: Callable[[float], Slowdown], factors: Sequence[float], most_per_s: float) -> list[float]:
    """Return the highest rate that attains the SLO, for each SLO factor; 0.0 if the lowest tried does not.

    One run answers for all factors, and each factor is searched by halving between what is known.

    Args:
        run: Simulates a rate.
        factors: SLO factors.
        most_per_s: More than any system can do.
    """
    runs: dict[int, Slowdown] = {}

    def highest(factor: float) -> int:
        verdicts = {step: found.attainment(factor) >= ATTAINMENT for step, found in runs.items()}
        low = max((step for step, good in verdicts.items() if good), default=-1)
        high = min((step for step, good in verdicts.items() if not good and step > low), default=_STEPS)
        while high - low > 1:
            step = (low + high) // 2
            runs[step] = run(_rate(most_per_s, step))
            low, high = (step, high) if runs[step].attainment(factor) >= ATTAINMENT else (low, step)
        return low

    steps = [highest(factor) for factor in factors]
    return [_rate(most_per_s, step) if step >= 0 else 0.0 for step in steps]


def _rate(most_per_s: float, step: int) -> float:
    return most_per_s * RATE_STEP ** (step - _STEPS)


def accelerators(layout: Layout, control: ControlPolicy) -> int:
    """Return how many accelerators a layout takes."""
    return sum(count * layout.tp.get(s, control.stages[s].tp) for s, count in layout.counts.items())


def stage_gpu_s(control: ControlPolicy, work: Workload) -> dict[Stage, float]:
    """Return the accelerator-seconds of each stage for the mean request at the saturated rates."""
    return {stage: float(np.mean(each)) for stage, each in accelerator_s(control, work).items()}


def bound_per_s(control: ControlPolicy, work: Workload, gpus: int) -> float:
    """Return the rate at which accelerators would never rest, if each could do any stage."""
    return gpus / sum(stage_gpu_s(control, work).values())
