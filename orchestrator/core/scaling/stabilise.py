"""The highest count wanted in a window: what keeps a scale-in from following every dip."""

Recent = tuple[tuple[float, int], ...]
"""(time, count) with times ascending and counts descending: only what can still be the highest."""


def remember(recent: Recent, wants: int, now_s: float, window_s: float) -> Recent:
    """Return `recent` with a count added and what is older than the window dropped."""
    kept = tuple(entry for entry in recent if entry[1] > wants and entry[0] >= now_s - window_s)
    return (*kept, (now_s, wants))


def highest(recent: Recent) -> int:
    """Return the highest count in the window."""
    return recent[0][1]
