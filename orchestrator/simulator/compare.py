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
    subject: Subject, names: Sequence[str], seed: int, done: Callable[[str], None] = lambda name: None
) -> dict[str, Summary]:
    """Run each policy with its default parameters, the file's own with its own, on the same work."""
    found = {}
    for name in names:
        found[name] = _run(subject, name, seed)
        done(name)
    return found


def _run(subject: Subject, name: str, seed: int) -> Summary:
    if name == "static-best":
        return tune(subject, trials=STATIC_TRIALS, seed=seed).best.summary
    params = _INFORMED[name](subject) if name in _INFORMED else None
    return evaluate(subject, name, params, seed)
