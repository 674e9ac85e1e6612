"""E4: which scaling policy serves a mix of text and images for the fewest GPU-hours?"""

from dataclasses import dataclass, replace

import numpy as np

from experiments.goals import goal
from experiments.point import Experiment, Findings, Point, Row, Scale, Section, point
from experiments.services import day, figures, subject
from experiments.stats import Interval, interval
from experiments.tuned import found
from experiments.write import table
from orchestrator.core.scaling import SCALERS, Params
from orchestrator.simulator.evaluate import scenario_under
from orchestrator.simulator.run import ServiceRun, simulate
from orchestrator.simulator.scenario import Subject
from orchestrator.simulator.search import Found, search
from orchestrator.simulator.summary import summarise
from orchestrator.simulator.workload import Workload
from stages.types import Stage

TRAINING_SEED = 1_000
ATTAINMENT = 0.99
EQUAL = 0.01
"""Within this of the best counts as equal."""
GOAL = 1.10
"""GPU-hours of coupled over those of oracle, at most."""
EVENTS = 6.0
"""Scale events of coupled per stage and hour, at most."""
ORACLES = ("oracle", "oracle-zero-lag")
_TEXT = 3.0
"""Times the twin's text requests that the text service has, for one time of the other's."""
_BEGIN_H = 7.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What policies are judged on.

    Attributes:
        fleet: Words for `parse_fleet`.
        times: Times the twin's rate.
        hours: Of a weekday, from 7 o'clock on.
        trials: Of each search.
    """

    fleet: str
    times: float
    hours: float
    trials: int


def services(seed: int, setting: Setting) -> tuple[Subject, Subject]:
    """Return InternVL-2.5-26B under the twin's mix, and Llama-3.2-11B under its text requests alone."""
    mixed = _roomy(
        "internvl-26b", day(seed, hours=setting.hours, rate=setting.times, begin_h=_BEGIN_H), setting
    )
    encode = replace(mixed.control.stages[Stage.ENCODE], hardware=("l40s", "a100"))
    control = replace(mixed.control, stages={**mixed.control.stages, Stage.ENCODE: encode})
    others = day(seed + 1, hours=setting.hours, rate=_TEXT * setting.times, begin_h=_BEGIN_H)
    text = _roomy("llama-11b", others.where(others.images == 0), setting)
    return replace(mixed, control=control), text


def _roomy(model: str, work: Workload, setting: Setting) -> Subject:
    """Return a service whose stages may have as many more replicas as there are more requests."""
    given = subject(model, work, setting.fleet)
    stages = {
        stage: replace(each, max=round(each.max * setting.times))
        for stage, each in given.control.stages.items()
    }
    return replace(given, control=replace(given.control, stages=stages))


def setting_of(scale: Scale) -> Setting:
    """Return what E4 is measured on."""
    hours, trials = (1.0, 3) if scale.quick else (12.0, 10)
    return Setting(fleet="l40s=8x8,a100=32x8", times=1.0, hours=hours, trials=trials)


def points(scale: Scale) -> list[Point]:
    """Return every policy."""
    return [point(policy=name) for name in SCALERS]


def measure(at: Point, seed: int, scale: Scale) -> Row:
    """Return the figures of both services together, with parameters found on another day."""
    return judged(at.text("policy"), seed, setting_of(scale))


def judged(policy: str, seed: int, setting: Setting) -> Row:
    """Return a policy's figures with the parameters that are the cheapest on another day."""
    searched = found(f"{setting} {policy}", lambda: _searched(policy, setting))
    subjects = services(seed, setting)
    params = [each.params(subject) for each, subject in zip(searched, subjects, strict=True)]
    run = simulate(scenario_under(subjects, policy, params, seed))
    ratio = [part for service in run.services for part in _ratios(service)]
    return {
        **figures(summarise(run)),
        "ratio_spread": float(np.std(np.log(ratio))) if ratio else None,
        "params": "; ".join(_short(each) for each in params),
    }


def _searched(policy: str, setting: Setting) -> tuple[Found, ...]:
    """Search for each service as if it were alone."""
    return tuple(
        search(each, policy, trials=setting.trials, seed=TRAINING_SEED, goal=ATTAINMENT)
        for each in services(TRAINING_SEED, setting)
    )


def _short(params: Params) -> str:
    text = str(params)
    return text if len(text) < 400 else f"{text[:400]}…"


def _ratios(service: ServiceRun) -> list[float]:
    """Return ready prefill over ready decode replicas at each moment that has both."""
    counts = [moment.counts for moment in service.timeline]
    pairs = [(c[Stage.PREFILL].ready, c[Stage.DECODE].ready) for c in counts]
    return [prefill / decode for prefill, decode in pairs if prefill and decode]


def written(findings: Findings) -> Section:
    """Return a table of policies, those that attained first, and what became of the goals."""
    names = [name for name in SCALERS if findings.values(point(policy=name), "gpu_hours")]
    rows = sorted((_row(findings, name) for name in names), key=lambda row: row[0])
    heads = (
        "policy", "GPU-hours", "over oracle", "cost $", "attained %", "TTFT p99 s", "busy %",
        "events E, P, D per hour", "spread of ln P:D",
    )  # fmt: skip
    order = [row[1][0] for row in rows]
    text = (
        f"{table(heads, [row[1] for row in rows])}\n{_beside_the_best(findings, order)}\n{_goals(findings)}"
    )
    return Section(text=text, plots={})


def _row(findings: Findings, name: str) -> tuple[tuple[bool, float], tuple[str, ...]]:
    at = point(policy=name)
    hours = interval(findings.values(at, "gpu_hours"))
    attained = interval([100.0 * a for a in findings.values(at, "attainment")])
    events = [interval(findings.values(at, f"events_per_h_{stage}")).mean for stage in Stage]
    cells = (
        name,
        hours.text,
        f"{_over(findings, name, 'oracle').text} ×",
        interval(findings.values(at, "cost_usd")).text,
        attained.text,
        interval(findings.values(at, "ttft_p99_s")).text,
        interval([100.0 * u for u in findings.values(at, "busy")]).text,
        ", ".join(f"{each:.1f}" for each in events),
        interval(findings.values(at, "ratio_spread")).text,
    )
    return (attained.mean < 100.0 * ATTAINMENT, hours.mean), cells


def _beside_the_best(findings: Findings, names: list[str]) -> str:
    """Return each policy's GPU-hours over those of the cheapest that attained and foresees nothing."""
    attaining = [n for n in names if n not in ORACLES and _attained(findings, n).mean >= ATTAINMENT]
    if not attaining:
        return "No policy but the oracles attained 99 %: there is no best to compare with.\n"
    best = min(attaining, key=lambda n: interval(findings.values(point(policy=n), "gpu_hours")).mean)
    rows = [
        (name, f"{over.text} ×", _verdict(findings, name, best, over))
        for name in names
        for over in [_over(findings, name, best)]
    ]
    text = (
        f"GPU-hours over those of {best}, the cheapest that attains 99 % and foresees nothing; seed by seed, "
        f"as both saw the same requests and starts. Equal: the interval reaches within {100 * EQUAL:g} %.\n\n"
    )
    return text + table(("policy", f"over {best}", "verdict"), rows)


def _verdict(findings: Findings, name: str, best: str, over: Interval) -> str:
    if _attained(findings, name).mean < ATTAINMENT:
        return "below 99 %"
    if name == best:
        return "the best"
    if name in ORACLES:
        return "foresees"
    return "equal" if over.low <= 1.0 + EQUAL else "dearer"


def _goals(findings: Findings) -> str:
    """Say what became of the goals; that of the cheapest is in the table of verdicts."""
    attained = interval([100.0 * a for a in findings.values(point(policy="coupled"), "attainment")])
    events = [interval(findings.values(point(policy="coupled"), f"events_per_h_{s}")) for s in Stage]
    return (
        goal(
            f"coupled takes at most {GOAL:.2f} times the GPU-hours of oracle, seed by seed",
            _over(findings, "coupled", "oracle"),
            unit=" ×",
            high=GOAL,
        )
        + goal("coupled attains 99 %", attained, unit=" %", low=100.0 * ATTAINMENT)
        + goal(
            f"coupled moves no stage more than {EVENTS:g} times an hour; that which moves most",
            max(events, key=lambda each: each.mean),
            high=EVENTS,
        )
        + "- The gap on a day with a burst of images is in E3.\n"
    )


def _over(findings: Findings, name: str, other: str) -> Interval:
    return interval(findings.ratios(point(policy=name), point(policy=other), "gpu_hours"))


def _attained(findings: Findings, name: str) -> Interval:
    return interval(findings.values(point(policy=name), "attainment"))


E4 = Experiment(
    name="E4",
    title="Scaling policies for text and images together",
    figure="gpu_hours",
    points=points,
    measure=measure,
    expected_s=lambda at, scale: 16.0 if scale.quick else 130.0,
    written=written,
)
