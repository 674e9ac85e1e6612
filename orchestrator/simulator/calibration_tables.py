"""Published tables of distributions, as the files in data/traces have them, to a calibration."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.simulator.calibration import (
    Calibration,
    TokenQuantiles,
    clustering,
    output_given_context,
    together,
)
from orchestrator.simulator.trace_file import TraceError
from orchestrator.simulator.trace_table import read_table
from orchestrator.simulator.traces import read_trace

# Of the release: 14,332,170 images in 500,000 requests. It fixes the tail, of which only the range is known.
_MEAN_IMAGES = 28.66434


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """Files of published distributions.

    Attributes:
        window: Single requests, in `read_trace`'s formats; see `read_images` and so on for the others.
    """

    window: Path
    images: Path
    context_by_images: Path
    tokens: Path


def read_calibration(tables: Tables) -> Calibration:
    """Return published distributions, with clustering and how outputs depend on contexts from a window.

    Raises:
        TraceError: A file cannot be used.
    """
    window, _ = read_trace(tables.window)
    has_images = window.images > 0
    images, probability = read_images(tables.images)
    points, median, log_std = read_context_by_images(tables.context_by_images)
    text, image = (
        read_tokens(tables.tokens, kind, output_given_context(window, of))
        for kind, of in (("text", ~has_images), ("image", has_images))
    )
    return Calibration(
        clustering=clustering(window),
        together=together(window),
        images=images,
        images_probability=probability,
        context_images=points,
        context_median=median,
        context_log_std=log_std,
        text=text,
        image=image,
    )


def read_images(file: Path | str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return numbers of images per image request and their probabilities.

    Columns: num_images and percent. A last row such as 1025-9409 stands for the perfect squares in that
    range, their probabilities a power of the number such that the mean over all is the release's 28.66.

    Raises:
        TraceError: The file is no such table.
    """
    table = read_table(file, ("num_images", "percent"))
    percent = table.numbers("percent")
    *plain, last = table.columns["num_images"]
    try:
        body = np.array([int(cell) for cell in plain], dtype=np.int64)
        ends = [int(cell) for cell in last.split("-")]
    except ValueError:
        raise TraceError(
            file, "is not a whole number or a range", "correct it", column="num_images"
        ) from None
    if not percent.sum() or np.any(np.diff([0, *body, ends[0]]) <= 0):
        raise TraceError(file, "numbers of images must increase from 1", "sort the rows", column="num_images")
    probability = percent / percent.sum()
    if len(ends) == 1:
        return np.array([*body, ends[0]]), probability
    squares = np.arange(math.isqrt(ends[0] - 1) + 1, math.isqrt(ends[1]) + 1) ** 2
    tail_mean = (_MEAN_IMAGES - body @ probability[:-1]) / probability[-1]
    tail = _with_mean(squares, float(tail_mean)) * probability[-1]
    return np.concatenate([body, squares]), np.concatenate([probability[:-1], tail])


def read_context_by_images(
    file: Path | str,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return numbers of images, the median context of requests with so many, and its spread.

    Columns: num_images, increasing; context_median, tokens; log_std, of the natural logarithm.

    Raises:
        TraceError: The file is no such table.
    """
    table = read_table(file, ("num_images", "context_median", "log_std"))
    images, median, spread = (table.numbers(name) for name in table.columns)
    if images[0] < 1 or np.any(np.diff(images) <= 0) or np.any(median < 1):
        raise TraceError(file, "needs images that increase from 1 and medians above 0", "correct the rows")
    return images, median, spread


def read_tokens(file: Path | str, kind: str, rank_correlation: float) -> TokenQuantiles:
    """Return the token distributions of one kind of request, "text" or "image".

    Columns: percentile, increasing from 0 to 100, context_KIND and generated_KIND.

    Raises:
        TraceError: The file is no such table.
    """
    columns = ("percentile", f"context_{kind}", f"generated_{kind}")
    table = read_table(file, columns)
    percentile, context, output = (table.numbers(name) for name in columns)
    for name, values in zip(columns, (percentile, context, output), strict=True):
        for falls in np.flatnonzero(np.diff(values) < 0)[:1]:
            raise table.error(int(falls) + 1, name, "{cell} is less than in the row before")
    return TokenQuantiles(
        probability=percentile / 100, context=context, output=output, rank_correlation=rank_correlation
    )


def _with_mean(values: NDArray[np.int64], mean: float) -> NDArray[np.float64]:
    """Return probabilities in proportion to a power of the values, such that they have this mean."""
    logs = np.log(values / values[0])

    def probabilities(power: float) -> NDArray[np.float64]:
        weights: NDArray[np.float64] = np.exp(power * (logs - logs[-1] * (power > 0)))
        shares: NDArray[np.float64] = weights / weights.sum()
        return shares

    low, high = -50.0, 50.0
    for _ in range(60):  # the mean increases with the power
        middle = (low + high) / 2
        low, high = (middle, high) if float(values @ probabilities(middle)) < mean else (low, middle)
    return probabilities(low)
