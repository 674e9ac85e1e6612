"""The scaling policies side by side on the same work."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from orchestrator.core.control_types import ControlPolicy
from orchestrator.core.profile import ColdStart
from orchestrator.core.scaling import SCALERS
from orchestrator.core.scaling.oracle import OracleParams
from orchestrator.core.scaling.params import Params
from orchestrator.core.scaling.periodic import Hour, PeriodicParams
from orchestrator.simulator.foresight import WINDOW_S, needs
from orchestrator.simulator.run import Scenario, simulate
from orchestrator.simulator.scenario import Subject, scenario_of
from orchestrator.simulator.summary import Summary, summarise
from orchestrator.simulator.tune import tune
from stages.types import Stage

_INFORMED = ("oracle", "oracle-zero-lag", "periodic")
STATIC_TRIALS = 12
"""Simulations that the search for the best fixed counts may take."""


def comparable() -> list[str]:
    """Return the names of the policies that can be compared."""
    return list(SCALERS)


def compare_policies(
    subjects: Sequence[Subject],
    names: Sequence[str],
    seed: int,
    done: Callable[[str], None] = lambda name: None,
) -> dict[str, Summary]:
    """Run each policy with its default parameters, the files' own with their own, on the same work.

    Args:
        subjects: Services that share a fleet and all follow the policy.
        names: Of scaling policies.
        seed: Of cold starts: the same for everyone.
        done: Hears of each policy that was run.
    """
    found = {}
    for name in names:
        found[name] = summarise(simulate(_scenario(subjects, name, seed)))
        done(name)
    return found


def _scenario(subjects: Sequence[Subject], name: str, seed: int) -> Scenario:
    tenants = [subject.tenant(scaling=name, params=_params(subject, name, seed)) for subject in subjects]
    scenario = scenario_of(tenants, subjects[0].nodes, seed=seed)
    if name != "oracle-zero-lag":
        return scenario
    at_once = [replace(tenant, control=_started_at_once(tenant.control)) for tenant in tenants]
    return replace(scenario, tenants=tuple(at_once))


def _params(subject: Subject, name: str, seed: int) -> Params | None:
    """Return the parameters of a policy that is told something; each service is tuned as if alone."""
    if name == "static-best":
        return tune(subject, trials=STATIC_TRIALS, seed=seed).best.params
    return _informed(subject, name) if name in _INFORMED else None


def _started_at_once(control: ControlPolicy) -> ControlPolicy:
    at_once = ColdStart(node_s=(0.0, 0.0), pull_s=(0.0, 0.0), load_s=(0.0, 0.0))
    profile = replace(control.profile, cold_start=dict.fromkeys(Stage, at_once))
    return replace(control, profile=profile)


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
