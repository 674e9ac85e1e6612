"""Arrivals and tokens in a few numbers: dispersion, clustering, rank correlation, KS distance."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Sample = NDArray[np.float64] | NDArray[np.int32] | NDArray[np.int64]

_PHASES = 12


def index_of_dispersion(counts: Sample) -> float:
    """Return variance over mean of counts: 1.0 for a Poisson process, 0.0 if there are none."""
    mean = float(np.mean(counts)) if len(counts) else 0.0
    return float(np.var(counts)) / mean if mean else 0.0


def counts_in(arrival_s: NDArray[np.float64], cell_s: float, span_s: float) -> NDArray[np.int64]:
    """Return arrivals in each whole cell of [0, span_s)."""
    cells = int(span_s / cell_s + 1e-9)
    place = (arrival_s / cell_s + 1e-9).astype(np.int64)
    return np.bincount(place[place < cells], minlength=cells)


def dispersion_within(arrival_s: NDArray[np.float64], outer_s: float, inner_s: float) -> float:
    """Return the index of dispersion of arrivals by inner cell about the mean of their outer interval.

    1.0 if arrivals fall independently and uniformly within the outer interval. Mean over intervals and over
    phases of the grid.
    """
    dispersion = np.concatenate([found for found, _ in _by_phase(arrival_s, outer_s, inner_s)])
    return float(dispersion.mean()) if len(dispersion) else 0.0


def intraclass_correlation(arrival_s: NDArray[np.float64], outer_s: float, inner_s: float) -> float:
    """Return how alike the inner cells are that arrivals of one outer interval fall into, 0.0 to 1.0.

    0.0 if they fall independently and uniformly. It is the ρ of a Dirichlet-multinomial, by moments: for n
    arrivals in an interval the expected dispersion is 1 + ρ (n − 1). Pooled over intervals and phases.
    """
    found = list(_by_phase(arrival_s, outer_s, inner_s))
    excess = sum(float((dispersion - 1).sum()) for dispersion, _ in found)
    pairs = sum(float((total - 1).sum()) for _, total in found)
    return min(max(excess / pairs, 0.0), 1.0) if pairs > 0 else 0.0


def _by_phase(
    arrival_s: NDArray[np.float64], outer_s: float, inner_s: float
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    for phase in np.arange(_PHASES) / _PHASES:
        after = arrival_s[np.searchsorted(arrival_s, phase * outer_s) :]
        yield _dispersions(after - phase * outer_s, outer_s, round(outer_s / inner_s))


def _dispersions(
    arrival_s: NDArray[np.float64], outer_s: float, cells: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return χ² per degree of freedom and arrivals of each whole outer interval with two arrivals or more."""
    end_s = float(arrival_s[-1]) if len(arrival_s) else 0.0
    grid = counts_in(arrival_s, outer_s / cells, end_s // outer_s * outer_s).reshape(-1, cells)
    grid = grid[grid.sum(axis=1) > 1]
    total = grid.sum(axis=1)
    expected = total / cells
    return ((grid - expected[:, None]) ** 2).sum(axis=1) / expected / (cells - 1), total


def rank_correlation(a: Sample, b: Sample) -> float:
    """Return Spearman's ρ with mean ranks for ties, 0.0 if one of them is constant."""
    x, y = _mean_ranks(a), _mean_ranks(b)
    spread = float(x.std() * y.std()) if len(x) else 0.0
    return float(((x - x.mean()) * (y - y.mean())).mean()) / spread if spread else 0.0


def ks_distance(a: Sample, b: Sample) -> float:
    """Return the largest difference of two empirical distribution functions, 1.0 if one is empty."""
    if not len(a) or not len(b):
        return float(len(a) != len(b))
    # Both functions step at values of a or b only, and there they are compared after the step.
    values = np.concatenate([a, b])
    return float(np.abs(_cdf(a, values) - _cdf(b, values)).max())


def _cdf(a: Sample, values: Sample) -> NDArray[np.float64]:
    return np.searchsorted(np.sort(a), values, side="right") / len(a)


def _mean_ranks(a: Sample) -> NDArray[np.float64]:
    ordered = np.sort(a)
    return (np.searchsorted(ordered, a, side="left") + np.searchsorted(ordered, a, side="right")) / 2.0
