"""What a trace twin is calibrated to besides counts: clustering, images, tokens, their dependence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from orchestrator.simulator.measures import Sample, intraclass_correlation, rank_correlation
from orchestrator.simulator.per_minute import WINDOW_MINUTES, PerMinute
from orchestrator.simulator.workload import Workload

CELLS_S = (60.0, 30.0, 10.0, 1.0)
"""Scales at which arrivals cluster within the minute, each divided into the next."""

_PROBABILITIES = np.linspace(0.0, 1.0, 201)
_FEW = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenQuantiles:
    """Distributions of context and output tokens of one type of request.

    Attributes:
        probability: float64 [points], increasing, 0.0 to 1.0; beyond the ends the last tokens count.
        context, output: float64 [points], tokens at these probabilities.
        rank_correlation: Spearman's ρ of context and output, −1.0 to 1.0.
    """

    probability: NDArray[np.float64]
    context: NDArray[np.float64]
    output: NDArray[np.float64]
    rank_correlation: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """The distributions of a trace.

    Attributes:
        clustering: Intraclass correlation of arrivals from each of `CELLS_S` to the next, 0.0 to below 1.0.
        together: Fraction of arrivals at the very time of the one before, 0.0 to 1.0.
        images: int64 [values], numbers of images of an image request, increasing, at least 1.
        images_probability: float64 [values], adds up to 1.
        context_images: float64 [points], increasing numbers of images for which the next two are known.
        context_median: float64 [points], tokens; between points it is taken as a power of the images.
        context_log_std: float64 [points], standard deviation of the natural logarithm of the context.
        text, image: Tokens of requests without and with images.
    """

    clustering: tuple[float, ...]
    together: float
    images: NDArray[np.int64]
    images_probability: NDArray[np.float64]
    context_images: NDArray[np.float64]
    context_median: NDArray[np.float64]
    context_log_std: NDArray[np.float64]
    text: TokenQuantiles
    image: TokenQuantiles


def calibrate(real: Workload) -> Calibration:
    """Return the distributions of a trace of single requests, such as to make a twin of it."""
    has_images = real.images > 0
    images, counts = np.unique(real.images[has_images], return_counts=True)
    points, median, log_std = _context_by_images(real.images[has_images], real.context_tokens[has_images])
    return Calibration(
        clustering=clustering(real),
        together=together(real),
        images=images.astype(np.int64) if len(images) else np.array([1]),
        images_probability=counts / counts.sum() if len(images) else np.array([1.0]),
        context_images=points,
        context_median=median,
        context_log_std=log_std,
        text=_quantiles(real, ~has_images),
        image=_quantiles(real, has_images),
    )


def per_minute(real: Workload) -> PerMinute:
    """Return the counts and the mix of a trace of single requests, by minutes from its first arrival."""
    minute = (real.arrival_s // 60).astype(np.int64)
    minutes = max(math.ceil(real.span_s / 60), int(minute[-1]) + 1 if len(minute) else 1)
    first = int(real.epoch_s // 60)
    window = (first + np.arange(minutes)) // WINDOW_MINUTES - first // WINDOW_MINUTES

    def by_window(weights: Sample) -> NDArray[np.float64]:
        sums = np.bincount(window[minute], weights, minlength=window[-1] + 1)
        return sums[window].astype(np.float64)

    image_requests = by_window((real.images > 0).astype(np.float64))
    return PerMinute(
        epoch_s=real.epoch_s,
        requests=np.bincount(minute, minlength=minutes),
        image_share=image_requests / np.maximum(by_window(np.ones(len(real))), 1),
        images_each=by_window(real.images) / np.maximum(image_requests, 1),
    )


def clustering(real: Workload) -> tuple[float, ...]:
    """Return how arrivals cluster within the minute, from each of `CELLS_S` to the next."""
    moments = np.unique(real.arrival_s)  # arrivals at the very same time are counted by `together`
    return tuple(intraclass_correlation(moments, outer_s, inner_s) for outer_s, inner_s in pairwise(CELLS_S))


def together(real: Workload) -> float:
    """Return the fraction of arrivals at the very time of the one before, 0.0 to 1.0."""
    return float(np.mean(np.diff(real.arrival_s) == 0)) if len(real) > 1 else 0.0


def output_given_context(real: Workload, of: NDArray[np.bool_]) -> float:
    """Return Spearman's ρ of context and output tokens of some of the requests."""
    return rank_correlation(real.context_tokens[of], real.output_tokens[of])


def _quantiles(real: Workload, of: NDArray[np.bool_]) -> TokenQuantiles:
    context, output = real.context_tokens[of], real.output_tokens[of]
    none = not of.any()
    return TokenQuantiles(
        probability=_PROBABILITIES,
        context=np.ones(len(_PROBABILITIES)) if none else np.quantile(context, _PROBABILITIES),
        output=np.ones(len(_PROBABILITIES)) if none else np.quantile(output, _PROBABILITIES),
        rank_correlation=output_given_context(real, of),
    )


def _context_by_images(
    images: NDArray[np.int32], context: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    values, counts = np.unique(images, return_counts=True)
    if not len(values):
        return np.ones(1), np.ones(1), np.zeros(1)
    enough = counts >= min(_FEW, counts.max())
    logs: Sequence[NDArray[np.float64]] = [np.log(context[images == value]) for value in values[enough]]
    return (
        values[enough].astype(np.float64),
        np.array([math.exp(float(np.median(log))) for log in logs]),
        np.array([float(log.std()) for log in logs]),
    )
