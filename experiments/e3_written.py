"""What the results say of E3: GPU-hours by system, at equal attainment, beside the papers' figures."""

from collections.abc import Sequence
from functools import cache

import numpy as np

from experiments.point import Findings, Section, point
from experiments.services import base, twin
from experiments.stats import interval
from experiments.write import factor_plot, lines_plot, table
from orchestrator.simulator.auto_rate import accelerator_s
from orchestrator.simulator.axes import Axis, linear_axis
from orchestrator.simulator.work import work_from_rows
from stages.types import Stage

POLICIES = ("coupled", "modserve", "heteroscale", "hpa", "static-best", "oracle")
MONOLITHS = {"monolith LW": False, "monolith LW DP": True}
"""Whether a replica spreads images over its accelerators."""
SYSTEMS = (*POLICIES, *MONOLITHS)
LEVELS = (0.85, 0.87, 0.89, 0.90, 0.95, 0.99)
"""Attainments at which systems are compared, since few reach the goal within the fleet."""
MODSERVE = {"internvl-26b": -25.0, "llama-11b": -41.3}
"""Percent of the GPUs of its monolith that ModServe saves."""


def written(findings: Findings) -> Section:
    """Return GPU-hours on other days and at equal attainment in training, and what they mean."""
    parts, plots = [_kappa()], {}
    models = list(dict.fromkeys(at.text("model") for at in findings.points()))
    for model in models:
        name = f"e3-{model}.svg"
        plots[name] = _curves(findings, model)
        rate = interval(findings.values(point(model=model, system="coupled"), "rate")).text
        parts.append(
            f"### {model}, {rate} requests/s on average\n\n{_judged(findings, model)}\n"
            f"{_needed(findings, model)}\n![attainment over GPU-hours](results/{name})\n\n"
            f"{_in_words(findings, model)}"
        )
    plots["e3-gap.svg"] = factor_plot(
        "GPU-hours of coupled over those of oracle",
        "ratio",
        {model: _gaps(findings, model) for model in models},
        x="attained in training on the day with the burst, %",
    )
    parts.append("### Gap to the oracle\n\n![coupled over oracle](results/e3-gap.svg)\n")
    return Section(text="\n".join(parts), plots=plots)


@cache
def _kappa() -> str:
    """Say what kappa comes to, before any scaling: from the profiles and the twin, nothing simulated."""
    lines = []
    for model in MODSERVE:
        control, work = base(model)[1], twin(0).clipped(16)
        asked = work_from_rows(work, control.profile)
        gpu_s = {stage: float(each.sum()) for stage, each in accelerator_s(control, work).items()}
        from_images = control.kappa * float(asked.image_tokens.sum() / asked.prompt_tokens.sum())
        shares = ", ".join(f"{stage} {100.0 * s / sum(gpu_s.values()):.0f} %" for stage, s in gpu_s.items())
        of_all = 100.0 * from_images * gpu_s[Stage.PREFILL] / sum(gpu_s.values())
        lines.append(
            f"- {model}, kappa {control.kappa}: {shares}; image tokens in prefill {of_all:.0f} % of all."
        )
    return (
        "Accelerator-seconds of the twin's requests at the saturated rates. Where kappa is 0 nothing that "
        "images ask of prefill has to follow a burst.\n\n" + "\n".join(lines) + "\n"
    )


def _judged(findings: Findings, model: str) -> str:
    """Return GPU-hours and attainment with the parameters found."""
    rows = []
    for system in SYSTEMS:
        at = point(model=model, system=system)
        if hours := findings.values(at, "gpu_hours"):
            attained = interval([100.0 * a for a in findings.values(at, "attainment")])
            saved = [_saved(findings, model, system, other) for other in MONOLITHS]
            rows.append((system, interval(hours).text, attained.text, *saved))
    return table(("system", "GPU-hours", "attained %", *[f"over {name}" for name in MONOLITHS]), rows)


def _saved(findings: Findings, model: str, system: str, other: str) -> str:
    one, two = (point(model=model, system=name) for name in (system, other))
    found = [100.0 * (ratio - 1.0) for ratio in findings.ratios(one, two, "gpu_hours")]
    return f"{interval(found).text} %" if found else "–"


def _needed(findings: Findings, model: str) -> str:
    """Return the fewest GPU-hours that reached an attainment in training, of all that a search tried."""
    rows = []
    for system in SYSTEMS:
        if _trials(findings, model, system):
            reached = [_fewest(findings, model, system, level) for level in LEVELS]
            rows.append((system, *["never" if hours is None else f"{hours:,.0f}" for hours in reached]))
    heads = ("GPU-hours in training for", *[f"{100 * level:g} %" for level in LEVELS])
    return table(heads, rows)


def _fewest(findings: Findings, model: str, system: str, level: float) -> float | None:
    return min((h for h, attained in _trials(findings, model, system) if attained >= level), default=None)


def _trials(findings: Findings, model: str, system: str) -> list[tuple[float, float]]:
    """Return GPU-hours and attainment of each trial, cheapest first; none if the system was not measured."""
    rows = [m.row for m in findings.measured if m.point == point(model=model, system=system)]
    pairs = [trial.partition(":") for trial in str(rows[0]["trained"]).split()] if rows else []
    return sorted((float(hours), float(attained)) for hours, _, attained in pairs)


def _at_equal(findings: Findings, model: str, one: str, other: str) -> list[tuple[float, float]]:
    """Return (attainment, ratio of GPU-hours) for each level that both reached in training."""
    pairs = [
        (level, _fewest(findings, model, one, level), _fewest(findings, model, other, level))
        for level in LEVELS
    ]
    return [(level, ours / theirs) for level, ours, theirs in pairs if ours is not None and theirs]


def _gaps(findings: Findings, model: str) -> list[tuple[float, float]]:
    return [(100.0 * level, gap) for level, gap in _at_equal(findings, model, "coupled", "oracle")]


def _in_words(findings: Findings, model: str) -> str:
    """Say where ModServe's figure falls, how far the oracle is, and what was not measured."""
    lines = [
        _beside_modserve(findings, model, system, baseline)
        for system in ("coupled", "modserve")
        for baseline in MONOLITHS
    ]
    mine, oracle = (point(model=model, system=name) for name in ("coupled", "oracle"))
    if gap := findings.ratios(mine, oracle, "gpu_hours"):
        attained = [interval(findings.values(at, "attainment")).mean for at in (mine, oracle)]
        lines.append(
            f"- coupled takes {interval(gap).text} times the GPU-hours of oracle on days with a burst, "
            f"attaining {100.0 * attained[0]:.1f} and {100.0 * attained[1]:.1f} %."
        )
    missing = [s for s in SYSTEMS if not findings.values(point(model=model, system=s), "gpu_hours")]
    if missing:
        lines.append(f"- Not measured: {', '.join(missing)}.")
    return "\n".join(lines) + "\n"


def _beside_modserve(findings: Findings, model: str, system: str, baseline: str) -> str:
    saved = [100.0 * (ratio - 1.0) for _, ratio in _at_equal(findings, model, system, baseline)]
    found = f"{min(saved):+.0f} to {max(saved):+.0f} %" if saved else "none that both reached"
    return (
        f"- {system} over {baseline} at equal attainment in training: {found}; "
        f"ModServe reports {MODSERVE[model]:+g} %{_reached(saved, MODSERVE[model])}."
    )


def _reached(saved: Sequence[float], goal: float) -> str:
    """Say whether so much was saved, at all attainments or at some."""
    if not saved:
        return ""
    return ": reached" if max(saved) <= goal else ": missed" if min(saved) > goal else ": reached at some"


def _curves(findings: Findings, model: str) -> str:
    """Return what each system attained in training, over what it took: the best of all that were cheaper."""
    series = {}
    for system in ("coupled", "modserve", "hpa", "oracle", *MONOLITHS):
        trials = _trials(findings, model, system)
        if trials:
            attained = np.maximum.accumulate([a for _, a in trials])
            series[system] = [(h, 100.0 * a) for (h, _), a in zip(trials, attained, strict=True)]
    most = max((h for line in series.values() for h, _ in line), default=1.0)
    x = linear_axis("GPU-hours", most)
    ticks = tuple((float(p), str(p)) for p in (80, 90, 95, 99, 100))
    return lines_plot(
        f"Attainment over GPU-hours, {model}",
        x,
        Axis(label="attained %", low=80.0, high=100.0, ticks=ticks),
        series,
    )
