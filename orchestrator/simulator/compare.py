"""The scaling policies side by side on the same work."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.core.scaling import SCALERS
from orchestrator.core.scaling.params import Params
from orchestrator.simulator.evaluate import evaluate
from orchestrator.simulator.faults import Fault
from orchestrator.simulator.foresight import foreseen, timetable
from orchestrator.simulator.scenario import Subject
from orchestrator.simulator.search import Found, Trial, search
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
    faults: Sequence[Fault] = (),
    done: Callable[[str], None] = lambda name: None,
) -> dict[str, Summary]:
    """Run each policy with its default parameters, the files' own with their own, on the same work.

    Args:
        subjects: Services that share a fleet and all follow the policy.
        names: Of scaling policies.
        seed: Of cold starts and of whom faults hit: the same for everyone.
        faults: What goes wrong; the search for the best fixed counts knows nothing of it.
        done: Hears of each policy that was run.
    """
    found = {}
    for name in names:
        params = [_params(subject, name, seed) for subject in subjects]
        found[name] = evaluate(subjects, name, params, seed, faults)
        done(name)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """What a policy was tuned to, and what came of that on other work."""

    found: Found
    summary: Summary


def compare_found(
    train: Subject,
    test: Subject,
    names: Sequence[str],
    *,
    trials: int,
    seed: int,
    tried: Callable[[str], None] = lambda name: None,
) -> dict[str, Searched]:
    """Tune each policy with the same budget on one workload and run it on another.

    Args:
        train: Where parameters are searched for.
        test: Where they are judged; the oracles foresee it too.
        names: Of scaling policies.
        trials: Simulations of each search at most.
        seed: Of searches and cold starts; of those of the judged runs one more.
        tried: Hears of each trial and of each judged run.
    """
    compared = {}
    for name in names:
        found = search(train, name, trials=trials, seed=seed, tried=_told(tried, name))
        summary = evaluate([test], name, [found.params(test)], seed + 1)
        compared[name] = Searched(found=found, summary=summary)
        tried(name)
    return compared


def _told(tried: Callable[[str], None], name: str) -> Callable[[Trial], None]:
    return lambda trial: tried(name)


def _params(subject: Subject, name: str, seed: int) -> Params | None:
    """Return the parameters of a policy that is told something; each service is tuned as if alone."""
    if name == "static-best":
        return tune(subject, trials=STATIC_TRIALS, seed=seed).best.params
    return _INFORMED[name](subject) if name in _INFORMED else None
