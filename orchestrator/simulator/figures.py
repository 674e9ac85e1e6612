"""A run's figures as tables of text, for terminals and reports alike."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.simulator.faults import end_s, kind_of
from orchestrator.simulator.outages import Strike
from orchestrator.simulator.summary import QUANTILES, Summary
from stages.types import Stage

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Figures:
    """A table: a text for each column in each row."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def request_figures(summary: Summary) -> Figures:
    """Return what requests saw, by modality."""
    percents = "/".join(f"p{percent}" for percent in QUANTILES)
    rows = [
        (
            name,
            f"{group.requests:,}",
            percent_text(group.attainment),
            times_text(group.ttft_s, 1.0, 2),
            times_text(group.tpot_s, 1e3, 1),
        )
        for name, group in summary.groups.items()
    ]
    return Figures(("requests", "offered", "attained", f"TTFT {percents} s", f"TPOT {percents} ms"), rows)


def stage_figures(summary: Summary) -> Figures:
    """Return what each stage took."""
    rows = [
        (
            str(stage),
            f"{summary.gpu_hours_by_stage.get(stage, 0.0):,.2f}",
            percent_text(summary.utilisation.get(stage)),
            str(summary.scale_events.get(stage, 0)),
        )
        for stage in Stage
    ]
    return Figures(("stage", "GPU-hours", "busy", "scale events"), rows)


def shortfall_texts(summary: Summary) -> list[str]:
    """Return a line for what was refused, and one for what was planned without a place, with why."""
    refused = ", ".join(f"{count:,} {reason}" for reason, count in summary.refusals.items())
    unplaced = ", ".join(
        f"{hours:,.2f} replica-hours of {stage} ({reason})"
        for stage, reasons in summary.unplaced_hours.items()
        for reason, hours in reasons.items()
    )
    lines = (("refused", refused), ("planned without a place", unplaced))
    return [f"{what}: {text}" for what, text in lines if text]


def strike_texts(strikes: Sequence[Strike]) -> list[str]:
    """Return a line for each fault that happened, with up to five of those that it hit."""
    return [_strike_text(strike) for strike in strikes]


def _strike_text(strike: Strike) -> str:
    fault, hit = strike.fault, strike.hit
    end = f" to {end_s(fault):,.0f} s" if end_s(fault) < math.inf else ""
    more = f" and {len(hit) - _SHOWN} more" if len(hit) > _SHOWN else ""
    return f"{kind_of(fault)} at {fault.at_s:,.0f} s{end}: {', '.join(hit[:_SHOWN]) or 'nobody'}{more}"


def times_text(times_s: Mapping[int, float | None], factor: float, digits: int) -> str:
    """Return times one after another, in the unit of which `factor` make a second."""
    return " / ".join("–" if s is None else f"{s * factor:.{digits}f}" for s in times_s.values())


def percent_text(fraction: float | None) -> str:
    """Return a fraction for people, or a dash for none."""
    return "–" if fraction is None else f"{100.0 * fraction:.1f} %"
