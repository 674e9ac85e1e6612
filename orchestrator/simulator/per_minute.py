"""Requests by the minute, with their mix: what a trace twin honours exactly."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from orchestrator.simulator.trace_file import TraceError
from orchestrator.simulator.trace_table import read_table

WINDOW_MINUTES = 5
"""The mix of modalities is known by windows of so many minutes."""

IMAGE_SHARE = 0.5  # of the whole release: half of its 1,000,000 requests have images, by construction

_DAY, _WEEK = 1_440, 10_080
_MOST_PER_MINUTE = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PerMinute:
    """Counts of consecutive minutes and what their requests are made of.

    Attributes:
        epoch_s: Unix time of the first minute.
        requests: int64 [minutes].
        image_share: float64 [minutes], fraction of requests with images, 0.0 to 1.0.
        images_each: float64 [minutes], images per image request; only its order matters, equal if not known.
        label: What it is: "calibrated reconstruction", … .
    """

    epoch_s: float
    requests: NDArray[np.int64]
    image_share: NDArray[np.float64]
    images_each: NDArray[np.float64]
    label: str = "calibrated reconstruction"

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def window(self) -> NDArray[np.int64]:
        """Which 5-minute window of the clock each minute is part of, from 0."""
        first = int(self.epoch_s // 60)
        return (first + np.arange(len(self))) // WINDOW_MINUTES - first // WINDOW_MINUTES

    def image_requests(self) -> NDArray[np.int64]:
        """Return how many requests of each 5-minute window have images."""
        return np.rint(np.bincount(self.window, weights=self.requests * self.image_share)).astype(np.int64)

    def week(self, requests: int | None = None) -> Self:
        """Return seven days of it: what there is, then its last whole days again at the same time of day.

        Args:
            requests: What the week shall hold in all: repeated minutes are scaled alike, observed ones never.

        Raises:
            ValueError: As many requests have already been observed, or there is nothing to repeat.
        """
        missing = _WEEK - len(self)
        if missing <= 0:
            return self._at(np.arange(_WEEK), "")
        period = max(len(self) // _DAY * _DAY, min(len(self), _DAY))
        again = len(self) - period + np.arange(missing) % period
        repeated = self.requests[again]
        if requests is not None:
            repeated = _scaled(repeated, requests - int(self.requests.sum()))
        share = missing / _WEEK
        week = self._at(np.concatenate([np.arange(len(self)), again]), f", {share:.0%} of it by repetition")
        return replace(week, requests=np.concatenate([self.requests, repeated]))

    def _at(self, minutes: NDArray[np.int64], note: str) -> Self:
        return replace(
            self,
            requests=self.requests[minutes],
            image_share=self.image_share[minutes],
            images_each=self.images_each[minutes],
            label=self.label + note,
        )


def _scaled(counts: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Return counts in the same proportions with exactly this total."""
    if total < 0 or not counts.sum():
        raise ValueError(f"{total:,} requests are left for the minutes that are repeated")
    # Differences of a rounded running sum: every count is off by less than 1 and the total is exact.
    running: NDArray[np.int64] = np.cumsum(counts) * total // counts.sum()
    return np.diff(running, prepend=0)


def read_per_minute(file: Path | str) -> tuple[PerMinute, tuple[str, ...]]:
    """Return the requests per minute of a CSV file and what was repaired.

    Columns: timestamp (ISO 8601) and requests; others are ignored. Rows may come in any order; minutes left
    out have no requests.

    Raises:
        TraceError: The file is no such table, a minute is there twice, or the minutes span more than a year.
    """
    table = read_table(file, ("timestamp", "requests"))
    minutes = np.floor(table.times_s("timestamp") / 60).astype(np.int64)
    counts = table.numbers("requests")
    for wrong in np.flatnonzero((counts > _MOST_PER_MINUTE) | (counts % 1 != 0))[:1]:
        raise table.error(int(wrong), "requests", "{cell} is not a count of requests in a minute")
    order = np.argsort(minutes, kind="stable")
    for again in np.flatnonzero(np.diff(minutes[order]) == 0)[:1]:
        raise table.error(int(order[again + 1]), "timestamp", "the minute {cell} is there twice")
    place = minutes - minutes.min()
    if place.max() > 366 * _DAY:
        raise table.error(
            int(place.argmax()), "timestamp", "{cell} is more than a year after the first minute"
        )
    requests = np.zeros(place.max() + 1, dtype=np.int64)
    requests[place] = counts
    if not requests.any():
        raise TraceError(file, "no minute has a request", "give counts above 0", column="requests")
    per_minute = PerMinute(
        epoch_s=float(minutes.min()) * 60,
        requests=requests,
        image_share=np.full(len(requests), IMAGE_SHARE),
        images_each=np.ones(len(requests)),
    )
    return per_minute, (*table.notes, *_repairs(minutes, len(requests)))


def _repairs(minutes: NDArray[np.int64], span: int) -> list[str]:
    moved = int(np.count_nonzero(minutes < np.maximum.accumulate(minutes)))
    missing = span - len(minutes)
    return [f"unsorted: sorted {moved:,} minutes"] * (moved > 0) + [
        f"{missing:,} minutes are not in the file: taken as without requests"
    ] * (missing > 0)


def with_mix(per_minute: PerMinute, file: Path | str) -> tuple[PerMinute, tuple[str, ...]]:
    """Return the counts with the mix of a by-type file, and a note for minutes that it does not cover.

    Columns: window_start, text_est, image_est, images_est, by 5-minute windows. The share of image requests
    is taken as it is. Images per image request are rough inside bursts, so that only their order is used.

    Raises:
        TraceError: The file is no such table.
    """
    table = read_table(file, ("window_start", "text_est", "image_est", "images_est"))
    text, image = table.numbers("text_est"), table.numbers("image_est")
    first = int(per_minute.epoch_s // 60) // WINDOW_MINUTES
    place = np.floor(table.times_s("window_start") / (60 * WINDOW_MINUTES)).astype(np.int64) - first
    share, each = np.full(per_minute.window[-1] + 1, np.nan), np.ones(per_minute.window[-1] + 1)
    inside = (place >= 0) & (place < len(share)) & (text + image > 0)
    share[place[inside]] = (image / np.maximum(text + image, 1))[inside]
    each[place[inside]] = (table.numbers("images_est") / np.maximum(image, 1))[inside]
    unknown = np.isnan(share)
    note = f"{np.count_nonzero(unknown):,} of {len(share):,} windows are not in {Path(file).name}: "
    note += f"{IMAGE_SHARE:.0%} of their requests have images"
    share[unknown] = IMAGE_SHARE
    mixed = replace(per_minute, image_share=share[per_minute.window], images_each=each[per_minute.window])
    return mixed, (*table.notes, *([note] if unknown.any() else []))
