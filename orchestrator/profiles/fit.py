"""Measured points to the few figures that the core's timings have."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from orchestrator.core.profile import DecodeTiming, PrefillTiming

Vector = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ItlPoint:
    """A measured inter-token latency.

    Attributes:
        context_tokens: In the KV cache of each sequence.
    """

    sequences: int
    context_tokens: int
    itl_s: float


def prefill_timing(points: Sequence[tuple[int, float]], floor_s: float) -> PrefillTiming:
    """Return the timing that takes `tokens / rate` seconds at each (tokens, rate) point."""
    return PrefillTiming(
        points=tuple((tokens, tokens / rate) for tokens, rate in sorted(points)), floor_s=floor_s
    )


def decode_timing(
    points: Sequence[ItlPoint], *, context_token_s: float, measured_context_token_s: float
) -> DecodeTiming:
    """Fit step and sequence times by least squares of the relative error; neither comes out negative.

    What reading KV caches takes cannot be told from the rest in points that all have one context, so it
    is given.

    Args:
        points: Of one hardware class.
        context_token_s: Of the model that the timing is for.
        measured_context_token_s: Of the model that the points are of.
    """
    if len({point.context_tokens for point in points}) > 1:
        features = [(1.0, float(p.sequences), float(p.sequences * p.context_tokens)) for p in points]
        step_s, sequence_s, token_s = least_squares(features, [p.itl_s for p in points])
        return DecodeTiming(step_s=step_s, sequence_s=sequence_s, context_token_s=token_s)
    rest_s = [p.itl_s - p.sequences * p.context_tokens * measured_context_token_s for p in points]
    scales = [1.0 / p.itl_s for p in points]
    step_s, sequence_s = least_squares([(1.0, float(p.sequences)) for p in points], rest_s, scales)
    return DecodeTiming(step_s=step_s, sequence_s=sequence_s, context_token_s=context_token_s)


def fit_error(timing: DecodeTiming, points: Sequence[ItlPoint]) -> float:
    """Return the largest relative error of a timing over points of the same model."""
    return max(abs(timing.itl_s(p.sequences, p.sequences * p.context_tokens) / p.itl_s - 1.0) for p in points)


def least_squares(
    features: Sequence[Vector], values: Sequence[float], scales: Sequence[float] | None = None
) -> Vector:
    """Return the non-negative coefficients with the least sum of squared errors.

    With a handful of features every subset of them can be tried; without a bound that is active, the
    best subset's solution is the solution (Lawson and Hanson, Solving Least Squares Problems, ch. 23).

    Args:
        features: A row per value, at most four in a row.
        values: What the rows should come to.
        scales: Factor on each error; 1 / value by default, which makes errors relative.
    """
    scales = scales or [1.0 / value for value in values]
    rows = [tuple(f * scale for f in row) for row, scale in zip(features, scales, strict=True)]
    goal = [value * scale for value, scale in zip(values, scales, strict=True)]
    width = len(rows[0])
    subsets = [s for size in range(width + 1) for s in combinations(range(width), size)]
    fits = [fit for subset in subsets if (fit := _fit(rows, goal, subset)) and min(fit) >= 0.0]
    return min(fits, key=lambda fit: _squared_error(rows, goal, fit))


def _fit(rows: Sequence[Vector], goal: Sequence[float], subset: tuple[int, ...]) -> Vector | None:
    """Return the least squares with coefficients outside the subset 0; None if there are many."""
    normal = [[sum(row[i] * row[j] for row in rows) for j in subset] for i in subset]
    right = [sum(row[i] * value for row, value in zip(rows, goal, strict=True)) for i in subset]
    solution = _solve(normal, right)
    if solution is None:
        return None
    found = dict(zip(subset, solution, strict=True))
    return tuple(found.get(i, 0.0) for i in range(len(rows[0])))


def _solve(matrix: list[list[float]], right: list[float]) -> list[float] | None:
    """Solve by Gauss–Jordan elimination with the largest pivot; None if the matrix is singular."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for i in range(len(rows)):
        pivot = max(range(i, len(rows)), key=lambda r: abs(rows[r][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        if abs(rows[i][i]) < 1e-12 * abs(matrix[i][i]) or rows[i][i] == 0.0:
            return None
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for r in range(len(rows)):
            if r != i:
                rows[r] = [a - rows[r][i] * b for a, b in zip(rows[r], rows[i], strict=True)]
    return [row[-1] for row in rows]


def _squared_error(rows: Sequence[Vector], goal: Sequence[float], fit: Vector) -> float:
    return sum(
        (sum(c * f for c, f in zip(fit, row, strict=True)) - value) ** 2
        for row, value in zip(rows, goal, strict=True)
    )
