"""From a policy file, a trace and a fleet to a scenario."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from orchestrator.control_policy import Hardware, load_control_policy
from orchestrator.core.control_types import ControlPolicy, Node
from orchestrator.core.scaling import SCALERS, Params
from orchestrator.policy import Policy, load_policy
from orchestrator.simulator.first import first_replicas
from orchestrator.simulator.fleet_spec import FleetError, default_fleet, parse_fleet
from orchestrator.simulator.load import load_workload
from orchestrator.simulator.run import Scenario
from orchestrator.simulator.traces import Notes
from orchestrator.simulator.workload import Workload
from stages.types import Stage

IMAGES_AT_MOST = 16
"""Images of a request are clipped to this, as in ModServe's evaluation."""


class NoTraceError(ValueError):
    """Neither the command nor the policy file names a trace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What simulations of one policy file have in common.

    Attributes:
        notes: What was repaired in the trace.
        slowdown: See `Scenario`.
    """

    policy: Policy
    control: ControlPolicy
    workload: Workload
    nodes: tuple[Node, ...]
    hardware: Hardware
    notes: Notes = ()
    slowdown: float = 1.0

    def scenario(
        self,
        *,
        scaling: str | None = None,
        params: Params | None = None,
        seed: int = 0,
    ) -> Scenario:
        """Return a scenario.

        Args:
            scaling: A scaling policy to run instead of the file's.
            params: Its parameters; None for the file's own, or else the defaults.
            seed: Of cold starts.
        """
        control = self.control
        if params is not None or (scaling is not None and scaling != control.scaling):
            name = scaling or control.scaling
            control = replace(control, scaling=name, params=params or SCALERS[name].params())
        return Scenario(
            policy=self.policy,
            control=control,
            workload=self.workload,
            nodes=self.nodes,
            first=first_replicas(control, self.workload, self.nodes),
            links=self.hardware.links.of_levels(control.levels),
            slowdown=self.slowdown,
            seed=seed,
        )


def load_subject(
    policy_file: Path,
    trace: str | Path | None,
    *,
    fleet: str | None = None,
    rate_scale: float = 1.0,
    seed: int = 0,
) -> Subject:
    """Read all that a simulation needs.

    Args:
        policy_file: Stage policy file.
        trace: As for `load_workload`; by default what the policy's `demand.trace` names.
        fleet: See `parse_fleet`; by default room for every stage's `max`.
        rate_scale: Factor on the requests per second.
        seed: Of a trace twin, and of the thinning or doubling of requests.

    Raises:
        PolicyError: The policy file is wrong or infeasible.
        TraceError: The trace is.
        FleetError: The fleet is, or it has none of the policy's hardware.
        NoTraceError: No trace is named.
    """
    hardware = Hardware.load()
    policy = load_policy(policy_file)
    control = load_control_policy(policy_file, hardware)
    if trace is None:
        if policy.demand.trace is None:
            raise NoTraceError(
                "which requests? give --trace FILE or twin:PER_MINUTE.csv, "
                "or name one in the policy's demand.trace"
            )
        trace = policy_file.parent / policy.demand.trace
    work, notes = load_workload(str(trace), seed=seed)
    work = work.clipped(IMAGES_AT_MOST)
    if rate_scale != 1.0:
        work = work.scaled(rate=rate_scale, rng=np.random.default_rng(seed))
    nodes = parse_fleet(fleet, control.levels) if fleet else default_fleet(control)
    _check_hardware(control, nodes)
    return Subject(policy=policy, control=control, workload=work, nodes=nodes, hardware=hardware, notes=notes)


def _check_hardware(control: ControlPolicy, nodes: tuple[Node, ...]) -> None:
    there = {node.hardware for node in nodes}
    for stage in Stage:
        wanted = control.stages[stage].hardware
        if not there & set(wanted):
            raise FleetError(
                f"the fleet has {', '.join(sorted(there))}; {stage} runs on {', '.join(wanted)}: "
                f"add some with --fleet, such as {wanted[0]}=8x8"
            )
