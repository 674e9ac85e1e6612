"""GPU-hours against attainment: what several runs came to, and which of them no other beats in both."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.simulator.axes import Axis, linear_axis
from orchestrator.simulator.plot import Dots, Line, Plot, Point

_COLOUR, _BEST_COLOUR, _LINE_COLOUR = "#0072b2", "#d55e00", "#999999"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """One run.

    Attributes:
        name: What is written beside it; empty for nothing.
        attainment: 0 to 1.
        chosen: Whether it stands out.
    """

    name: str
    gpu_hours: float
    attainment: float
    chosen: bool = False


def frontier(runs: Sequence[Spent]) -> list[Spent]:
    """Return the runs for which no other attains as much for less, cheapest first."""
    found: list[Spent] = []
    for run in sorted(runs, key=lambda run: (run.gpu_hours, -run.attainment)):
        if not found or run.attainment > found[-1].attainment:
            found.append(run)
    return found


def scatter_plot(title: str, runs: Sequence[Spent], goal: float) -> Plot:
    """Plot runs with their frontier, and the attainment that is asked for as a line."""
    y = _attained_axis([run.attainment for run in runs] + [goal])
    x = linear_axis("GPU-hours", 1.15 * max((run.gpu_hours for run in runs), default=1.0))
    best = frontier(runs)
    corners = [
        corner
        for run, after in zip(best, [*[each.gpu_hours for each in best[1:]], x.high], strict=True)
        for corner in ((run.gpu_hours, 100.0 * run.attainment), (after, 100.0 * run.attainment))
    ]
    asked = [(0.0, 100.0 * goal), (x.high, 100.0 * goal)]
    return Plot(
        title=title,
        x=x,
        y=y,
        marks=(
            Line(label=f"asked for: {100.0 * goal:g} %", points=asked, colour="#222222", dash="2 3"),
            Line(label="most for the GPU-hours", points=corners, colour=_LINE_COLOUR, dash="5 4"),
            Dots(label="run", points=_dots(runs, chosen=False), colour=_COLOUR),
            *(
                [Dots(label="chosen", points=c, colour=_BEST_COLOUR)]
                if (c := _dots(runs, chosen=True))
                else []
            ),
        ),
        height=360.0,
    )


def _dots(runs: Sequence[Spent], *, chosen: bool) -> list[tuple[Point, str]]:
    return [((r.gpu_hours, 100.0 * r.attainment), r.name) for r in runs if r.chosen is chosen]


def _attained_axis(values: Sequence[float]) -> Axis:
    """Return an axis to a little above 100 %, from a multiple of ten below the lowest value."""
    low = min(90, 10 * math.floor(10.0 * min(values)))
    step = 2 if low == 90 else 10
    return Axis(
        label="attained %",
        low=float(low),
        high=100.0 + step / 2.0,
        ticks=tuple((float(tick), str(tick)) for tick in range(low, 101, step)),
    )
