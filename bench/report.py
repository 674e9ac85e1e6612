"""What a benchmark says: figures, on paper and as JSON."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number.

    Attributes:
        name: `<benchmark>.<what>`; unique in a run.
        value: Median over the windows.
        peer: What it is compared with: another system in the same run, or a goal. Empty for neither.
        ratio: Median over the windows of value / peer's value, None without a peer.
        spread: Lowest and highest of the ratio, or of the value without a peer, over the windows.
        goal: Bound on the ratio, or on the value without a peer: `<= 1.5`. Empty for none.
        met: Whether the median keeps to the goal, None without one.
    """

    name: str
    value: float
    unit: str
    peer: str = ""
    ratio: float | None = None
    spread: tuple[float, float] = (0.0, 0.0)
    goal: str = ""
    met: bool | None = None


def figure(name: str, values: Iterable[float], unit: str, goal: str = "") -> Figure:
    """Return a figure without a peer from one value per window."""
    seen = list(values)
    median = statistics.median(seen)
    return _judged(
        Figure(name=name, value=median, unit=unit, spread=(min(seen), max(seen)), goal=goal), median
    )


def against(
    name: str, values: Sequence[float], peer: str, peers: Sequence[float], unit: str, goal: str = ""
) -> Figure:
    """Return a figure whose windows are paired with a peer's: window i ran next to the peer's window i."""
    ratios = [value / other for value, other in zip(values, peers, strict=True)]
    ratio = statistics.median(ratios)
    spread = (min(ratios), max(ratios))
    value = statistics.median(values)
    return _judged(
        Figure(name=name, value=value, unit=unit, peer=peer, ratio=ratio, spread=spread, goal=goal), ratio
    )


def _judged(figure: Figure, measured: float) -> Figure:
    if not figure.goal:
        return figure
    sign, bound = figure.goal.split()
    return replace(figure, met=measured <= float(bound) if sign == "<=" else measured >= float(bound))


def percentile(values: Sequence[float], fraction: float) -> float:
    """Return the value below which `fraction` of the values lie; the nearest one, not interpolated."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


def line(figure: Figure) -> str:
    """Return one line for people."""
    value = f"{figure.name:<44} {figure.value:>10.4g} {figure.unit:<8}"
    low, high = figure.spread
    if figure.ratio is None:
        beside = f"  [{low:.4g} … {high:.4g}]" if low != high else ""
    else:
        beside = f"  ×{figure.ratio:.2f} of {figure.peer} [{low:.2f} … {high:.2f}]"
    verdict = {None: "", True: f"   goal {figure.goal}: met", False: f"   goal {figure.goal}: MISSED"}
    return value + beside + verdict[figure.met]


def as_json(figures: Sequence[Figure]) -> dict[str, dict[str, object]]:
    """Return the figures by name."""
    return {figure.name: {k: v for k, v in asdict(figure).items() if k != "name"} for figure in figures}


Say = Callable[[str], None]
"""Shows progress."""
