"""The highest figure of a window: what keeps a scale-in from following every dip."""

from typing import TypeVar

N = TypeVar("N", bound=float)

Recent = tuple[tuple[float, N], ...]
"""(time, figure) with times ascending and figures descending: only what can still be the highest."""


def remember(recent: Recent[N], figure: N, now_s: float, window_s: float) -> Recent[N]:
    """Return `recent` with a figure added and what is older than the window dropped."""
    kept = tuple(entry for entry in recent if entry[1] > figure and entry[0] >= now_s - window_s)
    return (*kept, (now_s, figure))


def highest(recent: Recent[N]) -> N:
    """Return the highest figure in the window."""
    return recent[0][1]
