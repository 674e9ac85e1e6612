"""The requests a simulation offers, as arrays sorted by arrival."""

from dataclasses import dataclass, replace
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

TRACED_IMAGE_TOKENS = 576
"""By which ContextTokens of the Azure LMM trace grow with each image: the step of the medians from 0 to 1."""

_T = TypeVar("_T", bound=np.generic)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrefixBlocks:
    """Which blocks of its prompt each request may share with others, as ragged rows.

    Attributes:
        offsets: int64 [requests + 1]; the blocks of request i are `ids[offsets[i]:offsets[i + 1]]`.
        ids: int32 [blocks]. Equal leading ids mean an equal prefix.
        block_tokens: Tokens per block, at least 1; the last block of a prompt may be shorter.
    """

    offsets: NDArray[np.int64]
    ids: NDArray[np.int32]
    block_tokens: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, request: int) -> NDArray[np.int32]:
        """Return the block ids of one request, first block first."""
        return self.ids[self.offsets[request] : self.offsets[request + 1]]

    def take(self, index: NDArray[np.int64]) -> Self:
        """Return the rows at these positions, in this order."""
        lengths = np.diff(self.offsets)[index]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        ids = self.ids[np.repeat(self.offsets[index], lengths) + within]
        return replace(self, offsets=offsets, ids=ids)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Workload:
    """Requests in order of arrival. One million take 20 MB.

    All arrays have one entry per request and are not to be written to.

    Attributes:
        name: What results call it, such as a file's stem.
        label: What it is: "real", "calibrated reconstruction", …, and what was done to it since.
        arrival_s: float64, seconds from 0, never decreasing, below `span_s` or equal to it.
        images: int32, images of the request as traced (tiles or frames in the Azure traces), at least 0.
        context_tokens: int32, prompt tokens as traced, images included, at least 1.
        output_tokens: int32, generated tokens, at least 1.
        span_s: Length of the observed interval, at least the last arrival.
        epoch_s: Unix time at 0 s, or 0.0 if it is not known.
        prefix_blocks: What prompts share, or None where the trace does not say.
        content_ids: int64, equal where two requests carry the same images; None where the trace does not say.
    """

    name: str
    label: str
    arrival_s: NDArray[np.float64]
    images: NDArray[np.int32]
    context_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    span_s: float
    epoch_s: float = 0.0
    prefix_blocks: PrefixBlocks | None = None
    content_ids: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        columns = (self.images, self.context_tokens, self.output_tokens, self.prefix_blocks, self.content_ids)
        if any(column is not None and len(column) != len(self) for column in columns):
            raise ValueError(f"{self.name}: the arrays of a workload have one entry per request")
        if len(self) and not 0 <= self.arrival_s[0] <= self.arrival_s[-1] <= self.span_s:
            raise ValueError(f"{self.name}: arrivals lie outside 0 to {self.span_s} s")
        if np.any(self.arrival_s[1:] < self.arrival_s[:-1]):
            raise ValueError(f"{self.name}: arrivals are not sorted")

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def rate_per_s(self) -> float:
        """Requests per second over the span, 0.0 for an empty span."""
        return len(self) / self.span_s if self.span_s else 0.0

    def slice(self, start_s: float, end_s: float) -> Self:
        """Return the requests that arrive in [start_s, end_s), with start_s as the new 0.

        Raises:
            ValueError: Not 0 ≤ start_s ≤ end_s.
        """
        if not 0 <= start_s <= end_s:
            raise ValueError(f"cannot slice from {start_s} s to {end_s} s")
        first, last = np.searchsorted(self.arrival_s, [start_s, end_s])
        return replace(
            self._take(np.arange(first, last), shift_s=-start_s),
            span_s=end_s - start_s,
            epoch_s=self.epoch_s + start_s if self.epoch_s else 0.0,
        )

    def scaled(self, *, rate: float = 1.0, time: float = 1.0, rng: np.random.Generator | None = None) -> Self:
        """Return the workload with `rate` times the requests over `time` times the seconds.

        The count becomes round(rate · count) exactly. Thinning keeps a random subset, and with equally seeded
        generators the subset at a lower rate is part of that at a higher one. Copies fall uniformly between
        their original and the next arrival, so the shape of the load stays and no artificial bursts arise.

        Args:
            rate: At least 0.
            time: Above 0; 2.0 stretches a minute to two and so halves requests per second.
            rng: Needed where rate is not 1.

        Raises:
            ValueError: A factor out of range, or no generator.
        """
        if not (rate >= 0 and 0 < time < np.inf and rate < np.inf):
            raise ValueError(f"cannot scale by rate {rate} and time {time}")
        return self._at_rate(rate, rng)._stretched(time)

    def where(self, chosen: NDArray[np.bool_]) -> Self:
        """Return the requests for which `chosen`, bool [requests], is true."""
        return replace(self._take(np.flatnonzero(chosen), shift_s=0.0), span_s=self.span_s)

    def clipped(self, images: int = 16) -> Self:
        """Return the workload with at most so many images per request, as ModServe's experiments have it.

        An image that goes takes its `TRACED_IMAGE_TOKENS` with it, as far as the prompt has them: text stays.
        16 is ModServe's limit (arXiv 2502.00937).
        """
        kept = np.minimum(self.images, np.int32(images))
        return self._with_images(kept, f"images clipped to {images}")

    def of_tiles(self, tiles: int) -> Self:
        """Return the workload with its images taken for tiles, of which an image has so many, at least one.

        The last image of a request counts as a whole, however few tiles are left for it. Text stays, as in
        `clipped`.
        """
        return self._with_images(-(-self.images // np.int32(tiles)), f"images as tiles, {tiles} an image")

    def repeated(self, times: int) -> Self:
        """Return the workload played so many times, at least once, one span after the other."""
        if times < 1:
            raise ValueError(f"cannot repeat {times} times")
        index = np.tile(np.arange(len(self)), times)
        shift_s = np.repeat(np.arange(times) * self.span_s, len(self))
        label = f"{self.label}, repeated {times} times" if times > 1 else self.label
        played = self._take(index, shift_s=shift_s)
        return replace(played, span_s=max(played.span_s, self.span_s * times), label=label)

    def _with_images(self, kept: NDArray[np.int32], label: str) -> Self:
        """Return the workload with fewer images, each gone with its tokens as far as the prompt has them."""
        gone = (self.images - kept).astype(np.int64) * TRACED_IMAGE_TOKENS
        least = np.minimum(self.context_tokens, np.maximum(1, kept * TRACED_IMAGE_TOKENS))
        return replace(
            self,
            images=kept,
            context_tokens=np.maximum(self.context_tokens - gone, least).astype(np.int32),
            label=f"{self.label}, {label}",
        )

    def _at_rate(self, rate: float, rng: np.random.Generator | None) -> Self:
        if rate == 1:
            return self
        if rng is None:
            raise ValueError("scaling the rate is random: pass rng")
        whole = int(rate)
        extra = rng.permutation(len(self)) < round(rate * len(self)) - whole * len(self)
        copies = whole + extra
        index = np.repeat(np.arange(len(self)), copies)
        original = np.concatenate([[True], index[1:] != index[:-1]])[: len(index)]
        gap_s = np.diff(self.arrival_s, append=self.span_s)[index]
        taken = self._take(index, shift_s=np.where(original, 0.0, rng.random(len(index)) * gap_s))
        return replace(taken, label=f"{self.label}, rate × {rate:g}")

    def _stretched(self, time: float) -> Self:
        if time == 1:
            return self
        return replace(
            self,
            arrival_s=self.arrival_s * time,
            span_s=self.span_s * time,
            label=f"{self.label}, time × {time:g}",
        )

    def _take(self, index: NDArray[np.int64], shift_s: float | NDArray[np.float64]) -> Self:
        """Return the requests at these positions, moved in time and sorted again."""
        arrival_s = self.arrival_s[index] + shift_s
        order = np.argsort(arrival_s, kind="stable")
        index, arrival_s = index[order], arrival_s[order]
        return replace(
            self,
            arrival_s=arrival_s,
            images=self.images[index],
            context_tokens=self.context_tokens[index],
            output_tokens=self.output_tokens[index],
            span_s=max(self.span_s, float(arrival_s[-1]) if len(index) else 0.0),
            prefix_blocks=self.prefix_blocks.take(index) if self.prefix_blocks else None,
            content_ids=None if self.content_ids is None else self.content_ids[index],
        )


def spliced(base: Workload, window: Workload, at_s: float) -> Workload:
    """Return base with its requests in [at_s, at_s + window.span_s) replaced by the window's.

    Prefixes and contents are dropped, for ids of two traces have nothing to do with each other.

    Raises:
        ValueError: The window would begin before base or end after it.
    """
    end_s = at_s + window.span_s
    if not 0 <= at_s <= end_s <= base.span_s:
        raise ValueError(f"{window.name} ({window.span_s:g} s) does not fit into {base.name} at {at_s:g} s")
    first, last = np.searchsorted(base.arrival_s, [at_s, end_s])

    def around(outer: NDArray[_T], inner: NDArray[_T]) -> NDArray[_T]:
        return np.concatenate([outer[:first], inner, outer[last:]])

    return Workload(
        name=f"{base.name}+{window.name}",
        label=f"{base.label}, with {window.name} ({window.label}) at {at_s:g} s",
        arrival_s=around(base.arrival_s, window.arrival_s + at_s),
        images=around(base.images, window.images),
        context_tokens=around(base.context_tokens, window.context_tokens),
        output_tokens=around(base.output_tokens, window.output_tokens),
        span_s=base.span_s,
        epoch_s=base.epoch_s,
    )
