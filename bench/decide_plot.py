"""`python -m bench.decide_plot FIGURES.json OUT.svg`: how `decide` grows, from its benchmark's figures."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.decide import NODES_ALONE, SERVICES_ALONE, SIZES
from orchestrator.simulator.axes import Axis, log_axis
from orchestrator.simulator.plot import Line, Plot, Point, svg

_STYLE = (
    "text{font:13px system-ui,sans-serif}.line{fill:none;stroke-width:1.8}"
    ".grid{stroke:#e2e2e2}.axis{stroke:#222;fill:none}"
)
_SERIES = (
    ("services and nodes", SIZES, "#c0392b", ""),
    ("50 services, nodes alone", NODES_ALONE, "#2471a3", ""),
    ("services alone, 5,000 nodes", SERVICES_ALONE, "#1e8449", ""),
)
"""Nodes and services have one axis: there are 25 nodes to a service in the first series."""
_NODES_PER_SERVICE = SIZES[0][1] // SIZES[0][0]


def draw(figures: Mapping[str, Mapping[str, float]]) -> str:
    """Return an SVG file: milliseconds of a decision over the fleet's size, and n log n beside it."""
    lines = [
        Line(label=label, points=_points(figures, sizes, label), colour=colour, dash=dash)
        for label, sizes, colour, dash in _SERIES
    ]
    limit = Line(label="n log n", points=_n_log_n(lines[0].points), colour="#777", dash="6 4")
    marks = [*lines, limit]
    y = log_axis("milliseconds of processor time", [ms for line in marks for _, ms in line.points])
    nodes = [nodes for _, nodes in SIZES]
    ticks = tuple((float(n), f"{n:,} / {n // _NODES_PER_SERVICE}") for n in nodes)
    # The text of the last tick needs room on its right.
    x = Axis(label="nodes / services", low=ticks[0][0], high=1.15 * ticks[-1][0], ticks=ticks, log=True)
    plot = svg(Plot(title="Time of a decision", x=x, y=y, marks=marks, height=360.0))
    head, _, body = plot.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{_STYLE}</style>{body}\n'


def _points(
    figures: Mapping[str, Mapping[str, float]], sizes: Sequence[tuple[int, int]], label: str
) -> list[Point]:
    alone = label.startswith("services alone")
    return [
        (
            float(services * _NODES_PER_SERVICE if alone else nodes),
            figures[f"decide.{services}x{nodes}"]["value"],
        )
        for services, nodes in sizes
    ]


def _n_log_n(points: Sequence[Point]) -> list[Point]:
    """Return n log n through the first of the points."""
    first, first_ms = points[0]
    return [(n, first_ms * n * math.log(n) / (first * math.log(first))) for n, _ in points]


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(draw(json.loads(source.read_text())))
