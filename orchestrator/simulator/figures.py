"""A run's figures as tables of text, for terminals and reports alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.simulator.summary import QUANTILES, Summary
from stages.types import Stage


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


def times_text(times_s: Mapping[int, float | None], factor: float, digits: int) -> str:
    """Return times one after another, in the unit of which `factor` make a second."""
    return " / ".join("–" if s is None else f"{s * factor:.{digits}f}" for s in times_s.values())


def percent_text(fraction: float | None) -> str:
    """Return a fraction for people, or a dash for none."""
    return "–" if fraction is None else f"{100.0 * fraction:.1f} %"
