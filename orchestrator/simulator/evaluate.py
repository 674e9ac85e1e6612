"""evaluate(): what a scaling policy with given parameters comes to on a workload."""

from dataclasses import replace

from orchestrator.core.control_types import ControlPolicy
from orchestrator.core.profile import ColdStart
from orchestrator.core.scaling.params import Params
from orchestrator.simulator.run import simulate
from orchestrator.simulator.scenario import Subject
from orchestrator.simulator.summary import Summary, summarise
from stages.types import Stage

_AT_ONCE = ColdStart(node_s=(0.0, 0.0), pull_s=(0.0, 0.0), load_s=(0.0, 0.0))


def evaluate(subject: Subject, scaling: str, params: Params | None = None, seed: int = 0) -> Summary:
    """Return a run's figures; the replicas of oracle-zero-lag start at once.

    Args:
        subject: Policy, workload and fleet.
        scaling: A key of `SCALERS`.
        params: As for `Subject.scenario`.
        seed: Of cold starts.
    """
    scenario = subject.scenario(scaling=scaling, params=params, seed=seed)
    if scaling == "oracle-zero-lag":
        scenario = replace(scenario, control=_started_at_once(scenario.control))
    return summarise(simulate(scenario))


def _started_at_once(control: ControlPolicy) -> ControlPolicy:
    profile = replace(control.profile, cold_start=dict.fromkeys(Stage, _AT_ONCE))
    return replace(control, profile=profile)
