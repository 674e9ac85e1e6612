"""The scaling policies side by side on the same work."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.core.scaling import SCALERS
from orchestrator.core.scaling.params import Params
from orchestrator.simulator.charts import POINTS_AT_MOST, thinned
from orchestrator.simulator.evaluate import scenario_under
from orchestrator.simulator.faults import Fault
from orchestrator.simulator.foresight import foreseen, timetable
from orchestrator.simulator.run import Run, simulate
from orchestrator.simulator.scenario import Subject
from orchestrator.simulator.search import Found, Trial, search
from orchestrator.simulator.summary import Summary, summarise
from orchestrator.simulator.timeline import Moment
from orchestrator.simulator.tune import tune

_INFORMED: Mapping[str, Callable[[Subject], Params]] = {
    "oracle": foreseen,
    "oracle-zero-lag": foreseen,
    "periodic": timetable,
}
STATIC_TRIALS = 12
"""Simulations that the search for the best fixed counts may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What came of one policy.

    Attributes:
        timelines: Moments by service, thinned to what plots show.
        found: What it was tuned to on other work; None if it was not.
    """

    summary: Summary
    timelines: Mapping[str, Sequence[Moment]]
    found: Found | None = None


def comparable() -> list[str]:
    """Return the names of the policies that can be compared."""
    return list(SCALERS)


def compare_policies(
    subjects: Sequence[Subject],
    names: Sequence[str],
    seed: int,
    faults: Sequence[Fault] = (),
    done: Callable[[str], None] = lambda name: None,
) -> dict[str, Compared]:
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
        found[name] = _compared(simulate(scenario_under(subjects, name, params, seed, faults)))
        done(name)
    return found


def compare_found(
    train: Subject,
    test: Subject,
    names: Sequence[str],
    *,
    trials: int,
    seed: int,
    tried: Callable[[str], None] = lambda name: None,
) -> dict[str, Compared]:
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
        run = simulate(scenario_under([test], name, [found.params(test)], seed + 1))
        compared[name] = replace(_compared(run), found=found)
        tried(name)
    return compared


def _compared(run: Run) -> Compared:
    timelines = {each.tenant.name: thinned(each.timeline, POINTS_AT_MOST) for each in run.services}
    return Compared(summary=summarise(run), timelines=timelines)


def _told(tried: Callable[[str], None], name: str) -> Callable[[Trial], None]:
    return lambda trial: tried(name)


def _params(subject: Subject, name: str, seed: int) -> Params | None:
    """Return the parameters of a policy that is told something; each service is tuned as if alone."""
    if name == "static-best":
        return tune(subject, trials=STATIC_TRIALS, seed=seed).best.params
    return _INFORMED[name](subject) if name in _INFORMED else None
