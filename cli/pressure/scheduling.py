"""How a machine shares its cores: figures that no counter tells.

They are found by simulating the pressure tests of the mix with several values of each, and taking those whose
times to first token and rates are nearest to the measured ones.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from statistics import fmean

from orchestrator.control_policy import Hardware
from orchestrator.core.profile import ModelProfile
from orchestrator.policy import Policy
from orchestrator.profiles.pressure import Machine, Pressure, Round
from orchestrator.simulator.closed_loop import closed_loop
from orchestrator.simulator.on_one_host import on_one_host, workload_of
from stages.types import Stage

_SLICES_S = (0.006, 0.008, 0.01, 0.012, 0.016)
_SEEKS = (0.0, 0.5, 1.0)
_STOLEN = (0.0, 0.06, 0.12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the tests ran on."""

    policy: Policy
    replicas: Mapping[Stage, int]
    hardware: Hardware


def fitted_machines(
    profile: ModelProfile, rounds: Sequence[Round], setting: Setting, cores: int
) -> tuple[Machine, tuple[Machine, ...]]:
    """Return the machine that suits all rounds of tests best, and the best one for each round.

    Args:
        profile: With all other figures; its own of these do not matter.
        rounds: Of these, the tests of the mix are simulated.
        setting: What they ran on.
        cores: Of the machine.
    """
    candidates = [
        Machine(cores=cores, slice_s=slice_s, seek=seek, stolen=stolen)
        for slice_s, seek, stolen in product(_SLICES_S, _SEEKS, _STOLEN)
    ]
    distances = {
        machine: [_distance(_with(profile, machine), each.mixed, setting) for each in rounds]
        for machine in candidates
    }
    best = min(candidates, key=lambda machine: sum(distances[machine]))
    each = [min(candidates, key=lambda m: distances[m][at]) for at in range(len(rounds))]
    return best, tuple(each)


def _with(profile: ModelProfile, machine: Machine) -> ModelProfile:
    assert profile.host
    return replace(profile, host=replace(profile.host, **asdict(machine)))


def _distance(profile: ModelProfile, tests: Sequence[Pressure], setting: Setting) -> float:
    """Return how far simulated times to first token and rates are from measured ones: mean of |ln ratio|.

    Not its square, so that a test which a neighbour of the machine disturbed does not outweigh the others.
    """
    return fmean(_apart(profile, test, setting) for test in tests)


def _apart(profile: ModelProfile, test: Pressure, setting: Setting) -> float:
    work = workload_of("pressure", test.rows, [0.0] * len(test.rows), image_tokens=profile.image_tokens)
    scenario = on_one_host(setting.policy, profile, setting.replicas, work, setting.hardware)
    pressed = closed_loop(scenario, test.concurrency)
    ttft, rate = float(pressed.ttft_s.mean()) / test.ttft_s, pressed.rate_per_s / test.rate_per_s
    return abs(math.log(ttft)) + abs(math.log(rate))
