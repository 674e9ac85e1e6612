"""The reference encode engine: media to soft tokens behind an embedding cache."""

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stages.blobs import BlobStore
from stages.engines import InvalidWork
from stages.images import decode_frames
from stages.limits import EngineLimits
from stages.loop import EngineLoop, Task
from stages.numerics import Array
from stages.types import EmbeddingRef, EncodeJob, EngineLoad, MediaItem

_LARGE_PIXELS = 4_000_000


class Vision(Protocol):
    """A model's image encoder: one frame at a time, so that a frame's bits depend on it alone."""

    def encode(self, rgb: NDArray[np.uint8]) -> Array:
        """Return the soft tokens of uint8 [height, width, 3], float32 [tokens, dim]."""


CacheKey = tuple[str, int]
"""Content hash and number of frames."""


@dataclass(slots=True, kw_only=True, eq=False)
class EncodeTask(Task[Array]):
    """A media item on its way; its result is float32 [tokens, dim].

    Attributes:
        frames: Decoded frames still to encode, in order.
        parts: Soft tokens of the frames already encoded.
    """

    cache_key: CacheKey
    frames: deque[NDArray[np.uint8]]
    parts: list[Array] = field(default_factory=list)


class EmbeddingCache:
    """Soft tokens by content, least recently used out first. Safe to use from any thread."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._used_bytes = 0
        self._entries: OrderedDict[CacheKey, Array] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: CacheKey) -> Array | None:
        """Return what is held and mark it as just used."""
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
            return found

    def put(self, key: CacheKey, value: Array) -> None:
        """Hold a value unless it is larger than the whole cache."""
        with self._lock:
            if key in self._entries or value.nbytes > self._capacity_bytes:
                return
            self._entries[key] = value
            self._used_bytes += value.nbytes
            while self._used_bytes > self._capacity_bytes:
                _, evicted = self._entries.popitem(last=False)
                self._used_bytes -= evicted.nbytes


class EncodeCore:
    """One frame per step, the items in turn, so that a long clip does not hold up an image."""

    def __init__(self, vision: Vision, cache: EmbeddingCache) -> None:
        self._vision = vision
        self._cache = cache
        self._queue: deque[EncodeTask] = deque()

    def admit(self, task: EncodeTask) -> None:
        """See `Core`."""
        self._queue.append(task)

    def drop(self, task: EncodeTask) -> None:
        """See `Core`."""
        self._queue.remove(task)

    def step(self) -> bool:
        """See `Core`."""
        if not self._queue:
            return False
        task = self._queue.popleft()
        # The same item may have been encoded while this one waited.
        soft = self._cache.get(task.cache_key)
        if soft is None:
            task.parts.append(self._vision.encode(task.frames.popleft()))
            if task.frames:
                self._queue.append(task)
                return True
            soft = np.concatenate(task.parts)
            self._cache.put(task.cache_key, soft)
        task.future.set_result(soft)
        return True

    def load(self) -> EngineLoad:
        """See `Core`."""
        running = sum(t.tokens for t in self._queue if t.parts)
        waiting = sum(t.tokens for t in self._queue) - running
        return EngineLoad(queued_tokens=waiting, running_tokens=running, batch_size=min(1, len(self._queue)))


class ReferenceEncode:
    """`EncodeEngine` in numpy. Bytes are fetched and decoded on the calling thread."""

    def __init__(self, vision: Vision, blobs: BlobStore, limits: EngineLimits) -> None:
        self._blobs = blobs
        self._limits = limits
        self._cache = EmbeddingCache(limits.embedding_cache_bytes)
        self._counts = _CacheCounts()
        self._large = threading.Lock()
        self.loop = EngineLoop(EncodeCore(vision, self._cache), "encode-loop")
        self.cancel = self.loop.cancel
        self.pause = self.loop.pause
        self.close = self.loop.close

    @property
    def failed(self) -> BaseException | None:
        """See `EngineLoop.failed`."""
        return self.loop.failed

    def load(self) -> EngineLoad:
        """See `Engine`."""
        return self._counts.fill(self.loop.load())

    def encode(self, job: EncodeJob) -> EmbeddingRef:
        """See `EncodeEngine`."""
        item = job.item
        soft, cached = self._soft_tokens(job)
        if len(soft) != item.tokens:
            raise InvalidWork(f"{item.tokens} tokens announced, {len(soft)} encoded")
        blob = self._blobs.put(soft.data, owner=job.request_id, ttl_s=self._limits.blob_ttl_s)
        return EmbeddingRef(
            blob=blob,
            content_hash=item.content_hash,
            tokens=item.tokens,
            dim=soft.shape[1],
            cached=cached,
        )

    def _soft_tokens(self, job: EncodeJob) -> tuple[Array, bool]:
        """Return them, and whether they were in the cache."""
        key = (job.item.content_hash, job.item.frames)
        found = self._cache.get(key)
        self._counts.add(job.item.tokens, found is not None)
        if found is not None:
            return found, True
        # Decoded frames of large media would add up to gigabytes over all pool threads: one at a time.
        pixels = job.item.width_px * job.item.height_px * job.item.frames
        with self._large if pixels > _LARGE_PIXELS else nullcontext():
            task = EncodeTask(
                key=job.key,
                deadline_unix_s=job.deadline_unix_s,
                tokens=job.item.tokens,
                cache_key=key,
                frames=deque(self._frames(job.item)),
            )
            self.loop.run(task)
            return task.future.result(), False

    def _frames(self, item: MediaItem) -> Sequence[NDArray[np.uint8]]:
        if item.frames < 1:
            raise InvalidWork("a media item has at least one frame")
        return decode_frames(self._blobs.get(item.blob), item.frames, self._limits.max_image_pixels)


class _CacheCounts:
    """Tokens looked up and found, counted from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queries = 0
        self._hits = 0

    def add(self, tokens: int, hit: bool) -> None:
        with self._lock:
            self._queries += tokens
            self._hits += tokens * hit

    def fill(self, load: EngineLoad) -> EngineLoad:
        with self._lock:
            return replace(load, cache_queries=self._queries, cache_hits=self._hits)
