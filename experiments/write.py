"""Pieces of the results: Markdown tables and plots in files of their own."""

from collections.abc import Mapping, Sequence

from orchestrator.simulator.axes import Axis, linear_axis
from orchestrator.simulator.plot import Line, Plot, Point, svg

COLOURS = ("#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255", "#aa4499")
"""Tol's, which colour-blind readers can tell apart."""

_STYLE = (
    "<style>svg{background:#fff}text{font:12px system-ui,sans-serif;fill:#222}"
    ".line{fill:none;stroke-width:1.8;stroke-linejoin:round}.grid{stroke:#e2e2e2}.axis{stroke:#222;fill:none}"
    "</style>"
)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; its first column is words, the others are figures."""
    head = f"| {' | '.join(_cell(c) for c in columns)} |"
    rule = f"|---|{'---:|' * (len(columns) - 1)}"
    body = [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]
    return "\n".join([head, rule, *body]) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def svg_file(plot: Plot) -> str:
    """Return a plot as a file that browsers and Markdown readers show."""
    text = svg(plot)
    end = text.index(">")
    return f'{text[:end]} xmlns="http://www.w3.org/2000/svg">{_STYLE}{text[end + 1 :]}\n'


def factor_plot(
    title: str, label: str, series: Mapping[str, Sequence[Point]], x: str = "SLO factor c"
) -> str:
    """Return a plot of figures over a factor, a line for each name."""
    places = [place for points in series.values() for place, _ in points]
    highest = max((y for points in series.values() for _, y in points if y == y), default=1.0)
    ticks = tuple((place, f"{place:g}") for place in sorted(set(places)))
    low, high = (ticks[0][0], ticks[-1][0]) if len(ticks) > 1 else (0.0, 1.0)
    return lines_plot(
        title, Axis(label=x, low=low, high=high, ticks=ticks), linear_axis(label, highest), series
    )


def lines_plot(title: str, x: Axis, y: Axis, series: Mapping[str, Sequence[Point]]) -> str:
    """Return a plot of lines by name; those with names alike in their first word share a dash."""
    marks = [
        Line(label=name, points=list(points), colour=COLOURS[index % len(COLOURS)])
        for index, (name, points) in enumerate(series.items())
    ]
    return svg_file(Plot(title=title, x=x, y=y, marks=marks, height=320.0))
