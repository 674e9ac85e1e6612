"""The table that `routing` prints for docs/benchmarks.md, from its figures."""

from collections.abc import Mapping, Sequence

from bench.report import Figure

_COLUMNS: Mapping[str, str] = {
    "goodput": "goodput, requests/s",
    "attained": "within target",
    "attained.image": "images",
    "attained.text": "text",
    "ttft.p50": "TTFT p50, s",
    "ttft.p99": "p99",
    "tpot.p99": "TPOT p99, ms",
    "cores": "cores of the router",
}
"""By what a figure's name ends with."""
_RATIO = "÷ Tercet's"


def table(figures: Sequence[Figure]) -> str:
    """Return one table for each layout, the highest goodput first."""
    named = {figure.name: figure for figure in figures}
    return "\n\n".join(_layout(layout, named) for layout in _parts(named, 1))


def _parts(named: Mapping[str, Figure], index: int) -> list[str]:
    return list(dict.fromkeys(name.split(".")[index] for name in named))


def _layout(layout: str, named: Mapping[str, Figure]) -> str:
    start, end = f"routing.{layout}.", ".goodput"
    routers = [
        name[len(start) : -len(end)] for name in named if name.startswith(start) and name.endswith(end)
    ]
    routers.sort(key=lambda router: -named[f"{start}{router}{end}"].value)
    head = f"| {layout} | {' | '.join(_COLUMNS.values())} | {_RATIO} |"
    return "\n".join(
        [head, "|---|" + "---:|" * (len(_COLUMNS) + 1), *(_row(start, r, named) for r in routers)]
    )


def _row(start: str, router: str, named: Mapping[str, Figure]) -> str:
    values = [_cell(ending, named[f"{start}{router}.{ending}"]) for ending in _COLUMNS]
    against = named.get(f"{start}{router}.goodput/tercet")
    ratio = f"{against.ratio:.2f} [{against.spread[0]:.2f} … {against.spread[1]:.2f}]" if against else ""
    return f"| {router.replace('.', ', ')} | {' | '.join(values)} | {ratio} |"


def _cell(ending: str, figure: Figure) -> str:
    if ending == "goodput":
        low, high = figure.spread
        return f"{figure.value:.1f} [{low:.1f} … {high:.1f}]"
    if ending.startswith("attained"):
        return f"{figure.value:.1%}"
    return f"{figure.value:.0f}" if ending == "tpot.p99" else f"{figure.value:.2f}"
