"""Measures a running service and returns its profile as a file's keys."""

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from cli.pressure.battery import Loads
from cli.pressure.requests import Mix
from cli.pressure.scheduling import Setting, fitted_machines
from cli.pressure.starts import cold_starts
from cli.pressure.system import System
from orchestrator.control_policy import Hardware
from orchestrator.core.profile import ModelProfile
from orchestrator.policy import Policy
from orchestrator.profiles import parse_profile, profile_path, read_profile
from orchestrator.profiles.convert import model_profile
from orchestrator.profiles.measured import Measured, measured_profile, profile_text
from orchestrator.profiles.pressure import Machine, Round
from stages.limits import EngineLimits
from stages.types import Stage

_ANY_SLICE_S = 0.004


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How thoroughly to measure.

    Attributes:
        rounds: Of the whole battery; the spread is between them.
        duration_s: Of each test.
        starts: Of one replica of each stage; 0 leaves cold starts as the profile at hand has them.
    """

    rounds: int = 5
    duration_s: float = 1.5
    starts: int = 3


def measure(
    system: System,
    policy: Policy,
    replicas: Mapping[Stage, int],
    plan: Plan,
    mix: Mix,
    say: Callable[[str], None],
    after_round: Callable[[Round], None] = lambda _: None,
) -> dict[str, Any]:
    """Press a service and return its profile's keys.

    Args:
        system: The service.
        policy: Its policy.
        replicas: How many each stage has.
        plan: How thoroughly to measure.
        mix: What its requests are like.
        say: Shows progress.
        after_round: Called after each round of tests.

    Raises:
        NoProfileError: Nothing is known of the model: sizes are facts, and not measured.
        NoSystemError: A process does not come back.
        RuntimeError: The service refuses requests.
    """
    hardware = Hardware.load()
    base = read_profile(profile_path(policy.model.name), hardware.accelerators)
    loads = Loads(
        system=system, model=policy.model.name, image_px=base.image.px, duration_s=plan.duration_s, say=say
    )
    loads.warm_up(mix)
    starts = cold_starts(system, plan.starts, say) if plan.starts else {}
    rounds = []
    for number in range(plan.rounds):
        say(f"round {number + 1} of {plan.rounds}")
        rounds.append(loads.round(mix))
        after_round(rounds[-1])
    cores = os.cpu_count() or 1
    any_machine = Machine(cores=cores, slice_s=_ANY_SLICE_S, seek=1.0, stolen=0.0)
    found = Measured(
        rounds=rounds,
        machine=any_machine,
        machines=[any_machine] * len(rounds),
        hardware=policy.stages[Stage.ENCODE].hardware[0],
        chunk_tokens=EngineLimits().chunk_tokens,
        starts_s=starts,
        how=_how(replicas, plan),
        date=f"{datetime.now(UTC):%Y-%m-%d}",
    )
    say("fitting how cores are shared, by simulation")
    setting = Setting(policy=policy, replicas=replicas, hardware=hardware)
    profile = profile_of(measured_profile(base, found), hardware)
    machine, machines = fitted_machines(profile, rounds, setting, cores)
    return measured_profile(base, replace(found, machine=machine, machines=machines))


def profile_of(keys: Mapping[str, Any], hardware: Hardware) -> ModelProfile:
    """Return the profile that a file of these keys has."""
    file = parse_profile(profile_text(keys), "measured profile", hardware.accelerators)
    return model_profile(file, hardware.accelerators)


def _how(replicas: Mapping[Stage, int], plan: Plan) -> str:
    counts = ", ".join(f"{count} {stage}" for stage, count in replicas.items())
    return (
        f"tercet profile measure, {plan.rounds} rounds of tests of {plan.duration_s:g} s, {counts}; "
        f"clients on the same {os.cpu_count()} cores of a {platform.machine()}, "
        f"Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}"
    )
