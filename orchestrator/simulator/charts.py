"""The plots of one service's run: replicas, waiting work, times to the first token, ratio of the stages."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from orchestrator.simulator.axes import Axis, linear_axis, log_axis, time_axis
from orchestrator.simulator.plot import Band, Line, Plot, Point, steps
from orchestrator.simulator.run import Run
from orchestrator.simulator.timeline import Moment
from stages.types import Stage

# Okabe and Ito's and Tol's colours, which colour-blind readers can tell apart.
STAGE_COLOURS: Mapping[Stage, str] = {
    Stage.ENCODE: "#d55e00",
    Stage.PREFILL: "#0072b2",
    Stage.DECODE: "#009e73",
}
_MODALITY_COLOURS = {"text": "#332288", "image": "#aa4499"}
_SLO_COLOUR = "#222222"
_DASHES = {50: "", 90: "5 4"}
_BINS = 60
POINTS_AT_MOST = 1_000


def replica_plot(run: Run, stage: Stage) -> Plot:
    """Plot the replicas of a stage: ready as a line, those that are coming on top of it."""
    ready = _over_time(run, lambda moment: moment.counts[stage].ready)
    there = _over_time(run, lambda moment: moment.counts[stage].ready + moment.counts[stage].coming)
    colour = STAGE_COLOURS[stage]
    return Plot(
        title=f"Replicas of {stage}",
        x=_time(run),
        y=linear_axis("replicas", _highest(there), whole=True),
        marks=(
            Band(label="coming", lower=ready, upper=there, colour=colour),
            Line(label=f"{stage}, ready", points=ready, colour=colour),
        ),
        height=180.0,
    )


def counts_plot(title: str, timeline: Sequence[Moment], span_s: float) -> Plot:
    """Plot the ready replicas of all stages of one service."""
    lines = [
        Line(
            label=str(stage),
            points=_steps(timeline, span_s, partial(_ready, stage)),
            colour=colour,
        )
        for stage, colour in STAGE_COLOURS.items()
    ]
    y = linear_axis("replicas", max(_highest(line.points) for line in lines), whole=True)
    return Plot(title=title, x=time_axis(span_s), y=y, marks=lines, height=180.0)


def waiting_plot(run: Run) -> Plot:
    """Plot the jobs that wait for each stage."""
    lines = [
        Line(
            label=str(stage),
            points=_over_time(run, partial(_waiting, stage)),
            colour=colour,
        )
        for stage, colour in STAGE_COLOURS.items()
    ]
    highest = max(_highest(line.points) for line in lines)
    y = linear_axis("jobs waiting", highest, whole=True)
    return Plot(title="Waiting jobs by stage", x=_time(run), y=y, marks=lines)


def ttft_plot(run: Run) -> Plot:
    """Plot percentiles of TTFT by modality and time of arrival, with the SLO."""
    tenant, outcomes = run.only.tenant, run.only.outcomes
    work, slo_s = tenant.workload, tenant.policy.slo.ttft_s
    images = work.images > 0
    edges_s = np.linspace(0.0, max(work.span_s, 1.0), _BINS + 1)
    lines = [
        Line(
            label=f"{modality} p{percent}",
            points=binned(work.arrival_s[rows], outcomes.ttft_s[rows], edges_s, percent),
            colour=_MODALITY_COLOURS[modality],
            dash=dash,
        )
        for modality, rows in (("text", ~images), ("image", images))
        for percent, dash in _DASHES.items()
    ]
    slo = Line(
        label=f"SLO {slo_s:g} s",
        points=((0.0, slo_s), (run.span_s, slo_s)),
        colour=_SLO_COLOUR,
        dash="2 3",
    )
    y = log_axis("TTFT (s), logarithmic", [value for line in (*lines, slo) for _, value in line.points])
    return Plot(title="TTFT by modality", x=_time(run), y=y, marks=(*lines, slo), height=280.0)


def ratio_plot(run: Run) -> Plot:
    """Plot each stage's share of the ready replicas, one on another."""
    bands, below = [], _over_time(run, lambda moment: 0.0)
    for stage, colour in STAGE_COLOURS.items():
        share = _over_time(run, partial(_share, stage))
        above = [(x, low + y) for (x, low), (_, y) in zip(below, share, strict=True)]
        bands.append(Band(label=str(stage), lower=below, upper=above, colour=colour, opacity=0.75))
        below = above
    y = linear_axis("share of ready replicas", 1.0)
    return Plot(title="E:P:D ratio", x=_time(run), y=y, marks=bands)


def binned(
    at_s: NDArray[np.float64], values: NDArray[np.float32], edges_s: NDArray[np.float64], percent: int
) -> list[Point]:
    """Return a percentile for each bin of time at the bin's middle; NaN where a bin has no value.

    Args:
        at_s: Shape [values], never decreasing.
        values: Those that are NaN count as absent.
        edges_s: Of the bins, shape [bins + 1].
        percent: Which percentile.
    """
    known = ~np.isnan(values)
    at_s, values = at_s[known], values[known]
    cuts = np.searchsorted(at_s, edges_s[1:-1])
    middles_s = (edges_s[:-1] + edges_s[1:]) / 2.0
    return [
        (float(middle_s), float(np.percentile(part, percent)) if len(part) else float("nan"))
        for middle_s, part in zip(middles_s, np.split(values, cuts), strict=True)
    ]


def thinned(timeline: Sequence[Moment], most: int) -> Sequence[Moment]:
    """Return at most so many moments, spread evenly, the last among them."""
    step = max(1, -(-len(timeline) // most))
    return timeline if step == 1 else timeline[(len(timeline) - 1) % step :: step]


def _over_time(run: Run, value: Callable[[Moment], float]) -> list[Point]:
    return _steps(run.only.timeline, run.span_s, value)


def _steps(timeline: Sequence[Moment], span_s: float, value: Callable[[Moment], float]) -> list[Point]:
    """Return a line of steps; before the first decision it has the first one's value."""
    points = [(moment.at_s, float(value(moment))) for moment in thinned(timeline, POINTS_AT_MOST)]
    return steps([(0.0, points[0][1]), *points[1:]] if points else [], span_s)


def _ready(stage: Stage, moment: Moment) -> float:
    return moment.counts[stage].ready


def _waiting(stage: Stage, moment: Moment) -> float:
    return moment.counts[stage].waiting_jobs


def _share(stage: Stage, moment: Moment) -> float:
    total = sum(counts.ready for counts in moment.counts.values())
    return moment.counts[stage].ready / total if total else 0.0


def _highest(points: Sequence[Point]) -> float:
    return max((value for _, value in points), default=0.0)


def _time(run: Run) -> Axis:
    return time_axis(run.span_s)
