"""Line plots as SVG text: values in, text out. What is drawn needs nothing from outside the text."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from orchestrator.simulator.axes import Axis

Point = tuple[float, float]

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 960.0, 64.0, 16.0, 30.0, 44.0
_CHARACTER = 7.0
"""Width of a character, about; in the units of the drawing."""
_LINE, _SHIFTS = 12.0, 6
"""Height of a line of text, and by how many of them a name may be moved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Points joined by straight lines; a gap at each point that is not a number.

    Attributes:
        dash: Lengths of dashes and gaps as SVG has them; empty for an unbroken line.
    """

    label: str
    points: Sequence[Point]
    colour: str
    dash: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """The area between two lines over the same x."""

    label: str
    lower: Sequence[Point]
    upper: Sequence[Point]
    colour: str
    opacity: float = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Dots:
    """Points by themselves, each with a name beside it; empty for none."""

    label: str
    points: Sequence[tuple[Point, str]]
    colour: str
    radius: float = 4.0


Mark = Line | Band | Dots


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Marks between two axes, drawn in their order."""

    title: str
    x: Axis
    y: Axis
    marks: Sequence[Mark]
    height: float = 240.0


def steps(points: Sequence[Point], end_x: float) -> list[Point]:
    """Return the corners of a line that keeps each value until the next, and the last until `end_x`."""
    ends = [x for x, _ in points[1:]] + [end_x]
    return [
        corner for (x, y), end in zip(points, ends, strict=len(points) > 0) for corner in ((x, y), (end, y))
    ]


def svg(plot: Plot) -> str:
    """Return an `<svg>` element."""
    parts = (_grid(plot), *[_drawn(mark, plot) for mark in plot.marks], _frame(plot), _legend(plot.marks))
    return (
        f'<svg viewBox="0 0 {_WIDTH:g} {plot.height:g}" role="img" aria-label="{escape(plot.title)}">'
        f"{''.join(parts)}</svg>"
    )


def _x(plot: Plot, value: float) -> float:
    return _LEFT + plot.x.at(value) * (_WIDTH - _LEFT - _RIGHT)


def _y(plot: Plot, value: float) -> float:
    return plot.height - _BOTTOM - plot.y.at(value) * (plot.height - _TOP - _BOTTOM)


def _pairs(plot: Plot, points: Iterable[Point]) -> list[str]:
    """Return the places of points, without those that fall on the one before."""
    places = [f"{_x(plot, x):.1f},{_y(plot, y):.1f}" for x, y in points]
    return [place for index, place in enumerate(places) if not index or place != places[index - 1]]


def _drawn(mark: Mark, plot: Plot) -> str:
    if isinstance(mark, Band):
        outline = " ".join(_pairs(plot, [*mark.upper, *reversed(mark.lower)]))
        return f'<polygon points="{outline}" fill="{mark.colour}" fill-opacity="{mark.opacity:g}"/>'
    if isinstance(mark, Dots):
        return _named_dots(mark, plot)
    runs = _runs(mark.points)
    dots = "".join(_dot(plot, run[0], mark.colour) for run in runs if len(run) == 1)
    path = "".join(f"M{' '.join(_pairs(plot, run))}" for run in runs if len(run) > 1)
    dash = f' stroke-dasharray="{mark.dash}"' if mark.dash else ""
    return f'<path d="{path}" class="line" stroke="{mark.colour}"{dash}/>{dots}'


def _dot(plot: Plot, point: Point, colour: str) -> str:
    """Show a point between two gaps, where there is no line."""
    return _circle(_x(plot, point[0]), _y(plot, point[1]), 2.0, colour)


def _circle(x: float, y: float, radius: float, colour: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{colour}"/>'


def _named_dots(dots: Dots, plot: Plot) -> str:
    """Show points with their names at the side that has room, each as high as none before is in its way."""
    parts, taken = [], list[tuple[float, float, float]]()
    for (x, y), name in dots.points:
        at_x, at_y, width = _x(plot, x), _y(plot, y), _CHARACTER * len(name)
        right = at_x + width < _WIDTH - _RIGHT
        left = at_x + 7.0 if right else at_x - 7.0 - width
        shifts = sorted(range(-_SHIFTS, _SHIFTS + 1), key=lambda n: (abs(n), n))
        lines = [at_y + 4.0 + _LINE * n for n in shifts]
        line = next((each for each in lines if not _in_the_way(left, each, width, taken)), lines[0])
        taken.append((left, line, width))
        parts.append(_circle(at_x, at_y, dots.radius, dots.colour))
        if name:
            parts.append(f'<text x="{left:.1f}" y="{line:.1f}" class="name">{escape(name)}</text>')
    return "".join(parts)


def _in_the_way(left: float, line: float, width: float, taken: Iterable[tuple[float, float, float]]) -> bool:
    return any(abs(line - y) < _LINE and left < x + w and x < left + width for x, y, w in taken)


def _runs(points: Sequence[Point]) -> list[list[Point]]:
    """Split points where one is not a number."""
    runs: list[list[Point]] = [[]]
    for point in points:
        if math.isnan(point[1]):
            runs.append([])
        else:
            runs[-1].append(point)
    return [run for run in runs if run]


def _grid(plot: Plot) -> str:
    right = _WIDTH - _RIGHT
    rules = [(text, _y(plot, value)) for value, text in plot.y.ticks]
    return "".join(
        f'<path d="M{_LEFT:g},{y:.1f}H{right:g}" class="grid"/>'
        f'<text x="{_LEFT - 8:g}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>'
        for text, y in rules
    )


def _frame(plot: Plot) -> str:
    bottom, middle = plot.height - _BOTTOM, (_TOP + plot.height - _BOTTOM) / 2
    ticks = "".join(
        f'<path d="M{_x(plot, value):.1f},{bottom:g}v5" class="axis"/>'
        f'<text x="{_x(plot, value):.1f}" y="{bottom + 18:g}" text-anchor="middle">{escape(text)}</text>'
        for value, text in plot.x.ticks
    )
    return (
        f'<path d="M{_LEFT:g},{_TOP:g}V{bottom:g}H{_WIDTH - _RIGHT:g}" class="axis"/>{ticks}'
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2:g}" y="{plot.height - 6:g}" text-anchor="middle">'
        f"{escape(plot.x.label)}</text>"
        f'<text transform="translate(14,{middle:g}) rotate(-90)" text-anchor="middle">'
        f"{escape(plot.y.label)}</text>"
    )


def _legend(marks: Sequence[Mark]) -> str:
    drawn, x = [], _LEFT
    for mark in marks:
        drawn.append(f'{_swatch(mark, x)}<text x="{x + 28:g}" y="18">{escape(mark.label)}</text>')
        x += 28 + _CHARACTER * len(mark.label) + 16
    return "".join(drawn)


def _swatch(mark: Mark, x: float) -> str:
    if isinstance(mark, Band):
        return (
            f'<rect x="{x:g}" y="8" width="22" height="12" fill="{mark.colour}" '
            f'fill-opacity="{mark.opacity:g}"/>'
        )
    if isinstance(mark, Dots):
        return _circle(x + 11.0, 14.0, mark.radius, mark.colour)
    dash = f' stroke-dasharray="{mark.dash}"' if mark.dash else ""
    return f'<path d="M{x:g},14h22" class="line" stroke="{mark.colour}"{dash}/>'
