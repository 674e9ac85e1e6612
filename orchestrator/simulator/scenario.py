"""From policy files, traces and a fleet to a scenario."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from orchestrator.control_policy import Hardware, load_control_policy
from orchestrator.core.observed import Node
from orchestrator.core.planned import ControlPolicy
from orchestrator.core.profile import ModelProfile
from orchestrator.core.scaling import SCALERS, Params
from orchestrator.policy import Policy, SplitPolicy, load_policy
from orchestrator.simulator.auto_rate import RateError, chosen_rate
from orchestrator.simulator.faults import Fault
from orchestrator.simulator.first import first_replicas
from orchestrator.simulator.fleet_check import check_fleet
from orchestrator.simulator.fleet_spec import FleetError, default_fleet, parse_fleet
from orchestrator.simulator.load import load_workload
from orchestrator.simulator.run import Scenario
from orchestrator.simulator.servable import named_classes, refusal_notes, servable
from orchestrator.simulator.systems import SYSTEMS
from orchestrator.simulator.tenant import Tenant
from orchestrator.simulator.traces import Notes
from orchestrator.simulator.variant import Variant, as_variant
from orchestrator.simulator.workload import Workload
from orchestrator.yaml_fields import InfeasibleError


def fleet_text(nodes: Sequence[Node]) -> str:
    """Return how many nodes there are of each kind, for people."""
    kinds = Counter((node.hardware, node.accelerators) for node in nodes)
    return ", ".join(f"{count:,} × {each} {hardware}" for (hardware, each), count in sorted(kinds.items()))


class NoTraceError(ValueError):
    """Neither the command nor the policy file names a trace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What simulations of one policy file have in common.

    Attributes:
        notes: What was repaired in the trace, and what its load and images were taken to be.
        slowdown: See `Tenant`.
    """

    policy: Policy
    control: ControlPolicy
    workload: Workload
    nodes: tuple[Node, ...]
    hardware: Hardware
    notes: Notes = ()
    slowdown: float = 1.0

    def tenant(self, *, scaling: str | None = None, params: Params | None = None) -> Tenant:
        """Return the service as one of a scenario's.

        Args:
            scaling: A scaling policy to run instead of the file's.
            params: Its parameters; None for the file's own, or else the defaults.
        """
        control = self.control
        if params is not None or (scaling is not None and scaling != control.scaling):
            name = scaling or control.scaling
            control = replace(control, scaling=name, params=params or SCALERS[name].params())
        links = self.hardware.links.of_levels(control.levels)
        return Tenant(
            policy=self.policy,
            control=control,
            workload=self.workload,
            links=links,
            slowdown=self.slowdown,
        )

    def scenario(
        self, *, scaling: str | None = None, params: Params | None = None, seed: int = 0
    ) -> Scenario:
        """Return a scenario of this service alone; see `tenant` and `scenario_of`."""
        return scenario_of([self.tenant(scaling=scaling, params=params)], self.nodes, seed=seed)


def scenario_of(
    tenants: Sequence[Tenant], nodes: tuple[Node, ...], *, faults: Sequence[Fault] = (), seed: int = 0
) -> Scenario:
    """Return a scenario in which services share a fleet and begin at their policies' steady state.

    Args:
        tenants: One or several, of different names.
        nodes: The fleet.
        faults: What goes wrong.
        seed: Of cold starts and of whom faults hit.
    """
    first = first_replicas(tenants, nodes)
    return Scenario(tenants=tuple(tenants), nodes=nodes, first=first, faults=tuple(faults), seed=seed)


def load_subject(
    policy_file: Path,
    trace: str | Path | None,
    *,
    fleet: str | None = None,
    rate_scale: float | Literal["auto"] = 1.0,
    variant: Variant = Variant.CLIPPED,
    image_px: int | None = None,
    seed: int = 0,
) -> Subject:
    """Read all that simulations of one policy file need; see `load_subjects`."""
    (subject,) = load_subjects(
        [policy_file],
        [trace],
        fleet=fleet,
        rate_scale=rate_scale,
        variant=variant,
        image_px=image_px,
        seed=seed,
    )
    return subject


def load_subjects(
    policy_files: Sequence[Path],
    traces: Sequence[str | Path | None],
    *,
    fleet: str | tuple[Node, ...] | None = None,
    rate_scale: float | Literal["auto"] = 1.0,
    variant: Variant = Variant.CLIPPED,
    image_px: int | None = None,
    seed: int = 0,
) -> tuple[Subject, ...]:
    """Read all that simulations of policy files on one fleet need.

    Args:
        policy_files: Stage policy files of different services.
        traces: One for each, as for `load_workload`; None for what the policy's `demand.trace` names.
        fleet: Nodes, or words for `parse_fleet`; by default room for every stage's `max` of every service.
        rate_scale: Factor on the requests per second; "auto", for one service, is `auto_rate_scale`.
        variant: What the traces' images are taken for.
        image_px: Their width and height; None for the sizes that the models' profiles are for.
        seed: Of trace twins, and of the thinning or doubling of requests.

    Raises:
        PolicyError: A policy file is wrong or infeasible.
        TraceError: A trace is.
        FleetError: The fleet is, it has none of a policy's hardware or not near enough to each other, too
            little for the least that the policies may have, or they cannot share one.
        NoTraceError: No trace is named for a policy.
        ImageSizeError: A profile says nothing of images of that size.
        RateError: There is no rate for `auto`.
    """
    if rate_scale == "auto" and len(policy_files) > 1:
        raise RateError("the rate auto is for one service: of several, each would fill the fleet")
    hardware = Hardware.load()
    policies = [load_policy(file, _unsimulated) for file in policy_files]
    controls = [load_control_policy(file, hardware, image_px=image_px) for file in policy_files]
    levels = _common_levels(controls)
    nodes = _nodes(fleet, controls, levels)
    check_fleet(controls, nodes)
    subjects = []
    for file, policy, control, trace in zip(policy_files, policies, controls, traces, strict=True):
        work, notes = load_workload(str(trace or _own_trace(file, policy)), seed=seed)
        work = as_variant(work, variant, control.profile)
        if image_px is not None:
            notes = (*notes, _image_note(control.profile))
        rate, rate_notes = chosen_rate(rate_scale, control, work, nodes)
        if rate != 1.0:
            work = work.scaled(rate=rate, rng=np.random.default_rng(seed))
        fits = servable(control, work, SYSTEMS["e-p-d"], named_classes(control, {n.hardware for n in nodes}))
        subjects.append(
            Subject(
                policy=policy,
                control=control,
                workload=work,
                nodes=nodes,
                hardware=hardware,
                notes=(*notes, *rate_notes, *refusal_notes(control, work, fits)),
            )
        )
    return tuple(subjects)


def _unsimulated(policy: Policy) -> Iterator[InfeasibleError]:
    if policy.split != SplitPolicy():
        yield InfeasibleError("requests that are not split by stage are not simulated yet", "split")


def _nodes(
    fleet: str | tuple[Node, ...] | None, controls: Sequence[ControlPolicy], levels: tuple[str, ...]
) -> tuple[Node, ...]:
    if isinstance(fleet, tuple):
        return fleet
    return parse_fleet(fleet, levels) if fleet else default_fleet(controls, levels)


def _image_note(profile: ModelProfile) -> str:
    """Return what `--image-px` came to."""
    px, tiles, tokens = profile.image_px, profile.image_tiles, profile.image_tokens
    return f"images of {px} px; tiles of each: {tiles}, tokens: {tokens:,}"


def _own_trace(policy_file: Path, policy: Policy) -> Path:
    if policy.demand.trace is None:
        raise NoTraceError(
            f"which requests for {policy.service}? give --trace FILE or twin:PER_MINUTE.csv, "
            "or name one in the policy's demand.trace"
        )
    return policy_file.parent / policy.demand.trace


def _common_levels(controls: Sequence[ControlPolicy]) -> tuple[str, ...]:
    """Return the topology levels that the fleet's nodes have: those of all policies that name any."""
    names = [control.service for control in controls]
    if len(set(names)) < len(names):
        raise FleetError(f"services that share a fleet need names of their own; these are {', '.join(names)}")
    named = {control.levels: control.service for control in controls if control.levels}
    if len(named) > 1:
        each = "; ".join(f"{service}: {', '.join(levels)}" for levels, service in named.items())
        raise FleetError(f"policies that share a fleet name the same topology levels; these differ: {each}")
    return next(iter(named), ())
