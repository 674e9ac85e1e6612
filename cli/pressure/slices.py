"""The one figure that no counter tells: for how long a core keeps others waiting.

It is found by simulating the pressure tests in which replicas decode while requests come in, with several lengths
of a time slice, and taking the one whose times to first token are nearest to those measured.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from orchestrator.control_policy import Hardware
from orchestrator.core.profile import ModelProfile
from orchestrator.policy import Policy
from orchestrator.profiles.measured import Round
from orchestrator.profiles.pressure import Pressure
from orchestrator.simulator.closed_loop import closed_loop
from orchestrator.simulator.on_one_host import on_one_host, workload_of
from stages.types import Stage

CANDIDATES_S = (0.002, 0.004, 0.006, 0.008, 0.01, 0.012, 0.016, 0.02)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the tests ran on."""

    policy: Policy
    replicas: Mapping[Stage, int]
    hardware: Hardware


def fitted_slices(
    profile: ModelProfile, rounds: Sequence[Round], setting: Setting
) -> tuple[float, tuple[float, ...]]:
    """Return the time slice that suits all rounds of tests best, and the best one of each round.

    Args:
        profile: With all other figures; its own slice does not matter.
        rounds: Of these, the tests of the mix are simulated.
        setting: What they ran on.
    """
    distances = {
        slice_s: [_distance(_with_slice(profile, slice_s), each.mixed, setting) for each in rounds]
        for slice_s in CANDIDATES_S
    }
    best = min(CANDIDATES_S, key=lambda slice_s: sum(distances[slice_s]))
    each = [min(CANDIDATES_S, key=lambda slice_s: distances[slice_s][at]) for at in range(len(rounds))]
    return best, tuple(each)


def _with_slice(profile: ModelProfile, slice_s: float) -> ModelProfile:
    assert profile.host
    return replace(profile, host=replace(profile.host, slice_s=slice_s))


def _distance(profile: ModelProfile, tests: Sequence[Pressure], setting: Setting) -> float:
    """Return the mean squared logarithm of simulated over measured time to first token."""
    return fmean(math.log(_ttft_s(profile, test, setting) / test.ttft_s) ** 2 for test in tests)


def _ttft_s(profile: ModelProfile, test: Pressure, setting: Setting) -> float:
    work = workload_of("pressure", test.rows, [0.0] * len(test.rows))
    scenario = on_one_host(setting.policy, profile, setting.replicas, work, setting.hardware)
    return float(closed_loop(scenario, test.concurrency).ttft_s.mean())
