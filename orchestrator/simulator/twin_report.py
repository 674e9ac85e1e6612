"""How close a twin is to what it was made from, statistic by statistic."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from orchestrator.simulator.calibration import CELLS_S, Calibration, clustering, together
from orchestrator.simulator.measures import (
    Sample,
    counts_in,
    dispersion_within,
    index_of_dispersion,
    ks_distance,
    rank_correlation,
)
from orchestrator.simulator.per_minute import PerMinute
from orchestrator.simulator.workload import Workload

_POINTS = (np.arange(20_000) + 0.5) / 20_000
_IMAGES = (1, 4, 9, 16, 25, 49, 144, 196, 400, 529)
_CLUSTERING = [f"clustering, {outer_s:g} s to {inner_s:g} s" for outer_s, inner_s in pairwise(CELLS_S)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistic:
    """One statistic of a twin beside the real one.

    Attributes:
        name: What it is, with its unit.
        ks: Kolmogorov–Smirnov distance of the two distributions, 0.0 to 1.0; None for a single number.
    """

    name: str
    twin: float
    real: float
    ks: float | None = None


def twin_report(twin: Workload, real: Workload) -> tuple[Statistic, ...]:
    """Return each statistic of a twin beside that of the trace it was made from.

    A twin lasts whole minutes; what it has after the end of the trace is left out.
    """
    twin = twin.slice(0.0, min(twin.span_s, real.span_s))
    return (
        *_numbers(_of_requests(twin), _of_requests(real)),
        *_distributions(_samples(twin), _samples(real)),
    )


def table_report(twin: Workload, per_minute: PerMinute, calibration: Calibration) -> tuple[Statistic, ...]:
    """Return each statistic of a twin beside the published tables it was made from."""
    return (
        *_numbers(_of_requests(twin), _of_tables(per_minute, calibration)),
        *_distributions(_samples(twin), _table_samples(per_minute, calibration)),
    )


def _shared(workload: Workload) -> Mapping[str, float]:
    """Return what both requests and tables tell."""
    has_images = workload.images > 0
    context = workload.context_tokens
    return {
        "requests": float(len(workload)),
        "image share": float(has_images.mean()) if len(workload) else 0.0,
        "index of dispersion, by minute": index_of_dispersion(_by_minute(workload)),
        **dict(zip(_CLUSTERING, clustering(workload), strict=True)),
        "arrivals together": together(workload),
        **{
            _median_name(number): float(np.median(context[workload.images == number]))
            for number in _IMAGES
            if np.any(workload.images == number)
        },
    }


def _of_requests(workload: Workload) -> Mapping[str, float]:
    """Return what single requests tell."""
    image = workload.images > 0
    images, context, output = workload.images, workload.context_tokens, workload.output_tokens
    return {
        **_shared(workload),
        "index of dispersion within the minute, by second": dispersion_within(workload.arrival_s, 60, 1),
        "index of dispersion within the minute, by 10 s": dispersion_within(workload.arrival_s, 60, 10),
        "rank correlation, images and context": rank_correlation(images[image], context[image]),
        "rank correlation, context and output, text": rank_correlation(context[~image], output[~image]),
        "rank correlation, context and output, image": rank_correlation(context[image], output[image]),
    }


def _of_tables(per_minute: PerMinute, calibration: Calibration) -> Mapping[str, float]:
    requests = per_minute.requests
    medians = zip(calibration.context_images, calibration.context_median, strict=True)
    return {
        "requests": float(requests.sum()),
        "image share": float(per_minute.image_requests().sum() / requests.sum()),
        "index of dispersion, by minute": index_of_dispersion(requests),
        **dict(zip(_CLUSTERING, calibration.clustering, strict=True)),
        "arrivals together": calibration.together,
        **{_median_name(int(number)): float(median) for number, median in medians},
        "rank correlation, context and output, text": calibration.text.rank_correlation,
        "rank correlation, context and output, image": calibration.image.rank_correlation,
    }


def _median_name(images: int) -> str:
    return f"context tokens of {images} images, p50"


def _numbers(twin: Mapping[str, float], real: Mapping[str, float]) -> Iterator[Statistic]:
    for name in twin:
        if name in real:
            yield Statistic(name=name, twin=twin[name], real=real[name])


def _samples(workload: Workload) -> Mapping[str, Sample]:
    image = workload.images > 0
    return {
        "requests per minute": _by_minute(workload),
        "gap, s": np.diff(workload.arrival_s),
        "images per image request": workload.images[image],
        "context tokens, text": workload.context_tokens[~image],
        "context tokens, image": workload.context_tokens[image],
        "output tokens, text": workload.output_tokens[~image],
        "output tokens, image": workload.output_tokens[image],
    }


def _table_samples(per_minute: PerMinute, calibration: Calibration) -> Mapping[str, Sample]:
    cumulative = np.cumsum(calibration.images_probability)
    tokens = {
        # As whole tokens, for a KS distance to unrounded ones would be that of the rounding.
        f"{column} tokens, {kind}": np.rint(np.interp(_POINTS, table.probability, values))
        for kind, table in (("text", calibration.text), ("image", calibration.image))
        for column, values in (("context", table.context), ("output", table.output))
    }
    return {
        "requests per minute": per_minute.requests,
        "images per image request": calibration.images[np.searchsorted(cumulative, _POINTS * cumulative[-1])],
        **tokens,
    }


def _distributions(twin: Mapping[str, Sample], real: Mapping[str, Sample]) -> Iterator[Statistic]:
    """Yield median, with the KS distance of the whole distribution, 99th percentile and mean of each."""
    for name, ours in twin.items():
        theirs = real.get(name, ours[:0])
        if len(ours) and len(theirs):
            p50, p99 = zip(np.percentile(ours, [50, 99]), np.percentile(theirs, [50, 99]), strict=True)
            yield Statistic(name=f"{name}, p50", twin=p50[0], real=p50[1], ks=ks_distance(ours, theirs))
            yield Statistic(name=f"{name}, p99", twin=p99[0], real=p99[1])
            yield Statistic(name=f"{name}, mean", twin=float(np.mean(ours)), real=float(np.mean(theirs)))


def _by_minute(workload: Workload) -> Sample:
    return counts_in(workload.arrival_s, 60.0, workload.span_s)
