"""evaluate(): what a scaling policy with given parameters comes to."""

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.core.planned import ControlPolicy
from orchestrator.core.profile import ColdStart
from orchestrator.core.scaling.params import Params
from orchestrator.simulator.faults import Fault
from orchestrator.simulator.run import Scenario, simulate
from orchestrator.simulator.scenario import Subject, scenario_of
from orchestrator.simulator.summary import Summary, summarise
from stages.types import Stage

_AT_ONCE = ColdStart(node_s=(0.0, 0.0), pull_s=(0.0, 0.0), load_s=(0.0, 0.0))


def evaluate(
    subjects: Sequence[Subject],
    scaling: str,
    params: Sequence[Params | None],
    seed: int,
    faults: Sequence[Fault] = (),
) -> Summary:
    """Return a run's figures; see `scenario_under`."""
    return summarise(simulate(scenario_under(subjects, scaling, params, seed, faults)))


def scenario_under(
    subjects: Sequence[Subject],
    scaling: str,
    params: Sequence[Params | None],
    seed: int,
    faults: Sequence[Fault] = (),
) -> Scenario:
    """Return services under one scaling policy; the replicas of oracle-zero-lag start at once.

    Args:
        subjects: Services that share the first one's fleet and all follow the policy.
        scaling: A key of `SCALERS`.
        params: One for each, as for `Subject.tenant`.
        seed: Of cold starts and of whom faults hit.
        faults: What goes wrong.
    """
    tenants = [s.tenant(scaling=scaling, params=p) for s, p in zip(subjects, params, strict=True)]
    scenario = scenario_of(tenants, subjects[0].nodes, faults=faults, seed=seed)
    if scaling == "oracle-zero-lag":
        at_once = [replace(tenant, control=_started_at_once(tenant.control)) for tenant in tenants]
        scenario = replace(scenario, tenants=tuple(at_once))
    return scenario


def _started_at_once(control: ControlPolicy) -> ControlPolicy:
    profile = replace(control.profile, cold_start=dict.fromkeys(Stage, _AT_ONCE))
    return replace(control, profile=profile)
