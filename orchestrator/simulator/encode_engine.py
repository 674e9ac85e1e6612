"""A replica that encodes and does nothing else."""

import heapq

from orchestrator.simulator.caches import EmbeddingCache
from orchestrator.simulator.clock import Clock
from orchestrator.simulator.engine import Milestones
from orchestrator.simulator.hop import Hop


class EncodeEngine:
    """Images one after another on the accelerator, each prepared on a processor core before.

    With first come, first served and known times, an image's end is known when it comes: one event an image.
    What the embedding cache has takes no time, as in `stages.encode_engine`.
    """

    def __init__(
        self,
        clock: Clock,
        milestones: Milestones,
        *,
        image_s: float,
        preprocess_s: float,
        cores: int,
        cached_images: int = 0,
    ) -> None:
        self._clock = clock
        self._done = milestones.done
        self._image_s = image_s
        self._preprocess_s = preprocess_s
        self._cores_free_s = [0.0] * cores
        self._cache = EmbeddingCache(cached_images)
        self._free_s = 0.0
        self._busy_s = 0.0
        self._stopped = False

    def submit(self, hop: Hop) -> None:
        """See `Engine`."""
        now_s = self._clock.now_s
        if hop.content and (ready_s := self._cache.find(hop.content)) is not None:
            hop.cached_images, hop.images = hop.images, 0
            self._clock.at(max(now_s, ready_s), self._finish, hop)
            return
        prepared_s = max(now_s, self._cores_free_s[0]) + self._preprocess_s
        heapq.heapreplace(self._cores_free_s, prepared_s)
        work_s = self._image_s * hop.images
        self._free_s = max(prepared_s, self._free_s) + work_s
        self._busy_s += work_s
        if hop.content:
            self._cache.hold(hop.content, self._free_s)
        self._clock.at(self._free_s, self._finish, hop)

    def busy_s(self) -> float:
        """See `Engine`. Of what is queued on the accelerator only the past counts."""
        return self._busy_s - max(0.0, self._free_s - self._clock.now_s)

    def steps_left(self, hop: Hop) -> int | None:
        """See `Engine`."""
        return None

    def stop(self) -> None:
        """See `Engine`."""
        self._stopped = True

    def _finish(self, hop: Hop) -> None:
        if not self._stopped:
            self._done(hop)
