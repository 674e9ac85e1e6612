"""The trace twin: requests with the exact counts of every minute and the published distributions.

Everything besides counts comes from marginal distributions joined by ranks (a Gaussian copula): values are
taken at evenly spaced probabilities and handed out in the order of random scores. So marginals are met to
1/n, whatever the seed, and only who gets which value is random.
"""

import math
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from orchestrator.simulator.calibration import CELLS_S, Calibration, TokenQuantiles
from orchestrator.simulator.per_minute import PerMinute
from orchestrator.simulator.workload import Workload

_T = TypeVar("_T", bound=np.generic)

# How much of the score for the number of images is the window's and not the request's, 0.0 to 1.0. With 0.5
# images by 5-minute window spread as in the shipped estimate (p95 30,000, most 51,000), and the shipped days
# have 10 to 64 images per image request where 7 to 64 are true.
_WINDOW_WEIGHT = 0.5


def trace_twin(
    per_minute: PerMinute, calibration: Calibration, rng: np.random.Generator, name: str = "twin"
) -> Workload:
    """Return requests that cannot be told from a trace by the statistics it is calibrated to.

    Exact: requests of every minute; image requests of every 5-minute window; to 1/n the distributions of
    images, context and output tokens. In expectation: clustering within the minute, arrivals at one time,
    context given images, output given context, and which windows have requests with many images. Equal states
    of `rng` give equal twins.
    """
    arrival_s = _arrivals(per_minute.requests, calibration, rng)
    minute = (arrival_s // 60).astype(np.int64)
    has_images = _with_images(per_minute, minute, rng)
    images = np.zeros(len(arrival_s), dtype=np.int32)
    context, output = np.empty_like(images), np.empty_like(images)
    images[has_images] = _images(per_minute.images_each[minute[has_images]], calibration, rng)
    text_scores = rng.standard_normal(np.count_nonzero(~has_images))
    image_scores = _context_scores(images[has_images], calibration, rng)
    for of, scores, tokens in (
        (~has_images, text_scores, calibration.text),
        (has_images, image_scores, calibration.image),
    ):
        context[of], output[of] = _tokens(scores, tokens, rng)
    return Workload(
        name=name,
        label=per_minute.label,
        arrival_s=arrival_s,
        images=images,
        context_tokens=context,
        output_tokens=output,
        span_s=60.0 * len(per_minute),
        epoch_s=per_minute.epoch_s,
    )


def _arrivals(
    requests: NDArray[np.int64], calibration: Calibration, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return sorted arrivals in whole milliseconds, as the traces have them, with exactly these counts.

    Uniform order statistics, sent through a clock that runs at a random speed in each second of the minute.
    """
    minute = np.repeat(np.arange(len(requests)), requests)
    clock = np.sort(minute + rng.random(len(minute)))
    speed = _speeds(len(requests), calibration.clustering, rng)
    ticks = np.arange(len(requests))[:, None] + np.cumsum(speed, axis=1)
    knots = np.concatenate([[0.0], ticks.ravel()])
    second = np.arange(len(knots)) * CELLS_S[-1]
    milliseconds = np.floor(np.interp(clock, knots, second) * 1000).astype(np.int64)
    # Rounding must not move an arrival over the end of its minute.
    milliseconds = np.clip(milliseconds, minute * 60_000, minute * 60_000 + 59_999)
    first = np.concatenate([[True], minute[1:] != minute[:-1]])[: len(minute)]
    alone = first | (rng.random(len(minute)) >= calibration.together)
    leader = np.maximum.accumulate(np.where(alone, np.arange(len(minute)), 0))
    arrival_s: NDArray[np.float64] = milliseconds[leader] / 1000.0
    return arrival_s


def _speeds(minutes: int, clustering: tuple[float, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return for each minute and second in it the fraction of the minute's arrivals that it expects.

    A cascade: the minute's whole is divided among its parts by Dirichlet weights, these among theirs, and on.
    Counts are then Dirichlet-multinomial, whose intraclass correlation is ρ = 1 / (1 + Σα).
    """
    share = np.ones((minutes, 1))
    for (outer_s, inner_s), correlation in zip(pairwise(CELLS_S), clustering, strict=True):
        parts = round(outer_s / inner_s)
        rho = min(max(correlation, 1e-6), 1 - 1e-6)
        weights = rng.standard_gamma((1 / rho - 1) / parts, size=(*share.shape, parts)) + 1e-12
        weights /= weights.sum(axis=-1, keepdims=True)
        share = (share[..., None] * weights).reshape(minutes, -1)
    return share


def _with_images(
    per_minute: PerMinute, minute: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Choose the image requests of each 5-minute window, as many as it has."""
    window = per_minute.window[minute]
    order = np.lexsort((rng.random(len(minute)), window))
    begins = np.searchsorted(window, np.arange(per_minute.window[-1] + 1))
    place = np.arange(len(minute)) - begins[window]  # windows are sorted, before and after the shuffle
    chosen = np.empty(len(minute), dtype=np.bool_)
    chosen[order] = place < per_minute.image_requests()[window]
    return chosen


def _images(
    each: NDArray[np.float64], calibration: Calibration, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return the number of images of each image request, of which `each` is expected in its window."""
    weight = _WINDOW_WEIGHT if len(np.unique(each)) > 1 else 0.0
    level = _by_rank(each, np.sort(rng.standard_normal(len(each))))
    scores = weight * level + math.sqrt(1 - weight**2) * rng.standard_normal(len(each))
    cumulative = np.cumsum(calibration.images_probability)
    place = np.searchsorted(cumulative, _even(len(each)) * cumulative[-1])
    return _by_rank(scores, calibration.images[place])


def _context_scores(
    images: NDArray[np.int32], calibration: Calibration, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return scores in whose order image requests get their context: log-normal given the images."""
    log_images = np.log(images)
    points = np.log(calibration.context_images)
    median = np.interp(log_images, points, np.log(calibration.context_median))
    spread = np.interp(log_images, points, calibration.context_log_std)
    return median + spread * rng.standard_normal(len(images))


def _tokens(
    scores: NDArray[np.float64], tokens: TokenQuantiles, rng: np.random.Generator
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return context tokens in the order of the scores, and output tokens that go along with them."""
    count = len(scores)
    context_normal = _by_rank(scores, np.sort(rng.standard_normal(count)))
    # Pearson's correlation of normal scores whose ranks have Spearman's ρ.
    pearson = 2 * math.sin(math.pi / 6 * tokens.rank_correlation)
    output_scores = pearson * context_normal + math.sqrt(1 - pearson**2) * rng.standard_normal(count)
    context = np.interp(_even(count), tokens.probability, tokens.context)
    output = np.interp(_even(count), tokens.probability, tokens.output)
    return _by_rank(scores, _whole(context)), _by_rank(output_scores, _whole(output))


def _even(count: int) -> NDArray[np.float64]:
    return (np.arange(count) + 0.5) / max(count, 1)


def _whole(tokens: NDArray[np.float64]) -> NDArray[np.int32]:
    return np.maximum(np.rint(tokens), 1).astype(np.int32)


def _by_rank(scores: NDArray[np.float64], increasing: NDArray[_T]) -> NDArray[_T]:
    """Hand out values so that the n-th smallest score gets the n-th value."""
    out = np.empty_like(increasing)
    out[np.argsort(scores, kind="stable")] = increasing
    return out
