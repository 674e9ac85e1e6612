"""The scaling policies side by side on the same work."""

from collections.abc import Callable, Mapping, Sequence

from orchestrator.core.scaling import SCALERS
from orchestrator.core.scaling.params import Params
from orchestrator.simulator.evaluate import evaluate
from orchestrator.simulator.foresight import foreseen, timetable
from orchestrator.simulator.scenario import Subject
from orchestrator.simulator.summary import Summary
from orchestrator.simulator.tune import tune

_INFORMED: Mapping[str, Callable[[Subject], Params]] = {
    "oracle": foreseen,
    "oracle-zero-lag": foreseen,
    "periodic": timetable,
}
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
        found[name] = evaluate(subjects, name, [_params(s, name, seed) for s in subjects], seed)
        done(name)
    return found


def _params(subject: Subject, name: str, seed: int) -> Params | None:
    """Return the parameters of a policy that is told something; each service is tuned as if alone."""
    if name == "static-best":
        return tune(subject, trials=STATIC_TRIALS, seed=seed).best.params
    return _INFORMED[name](subject) if name in _INFORMED else None
