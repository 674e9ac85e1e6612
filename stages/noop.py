"""Engines that compute nothing: what remains is the cost of the path between the stages."""

import contextlib
import threading
from collections.abc import Iterator, Sequence

from stages.blobs import BlobStore
from stages.engines import Emit
from stages.front import Turn
from stages.limits import EngineLimits
from stages.types import (
    DecodeJob,
    EmbeddingRef,
    EncodeJob,
    EngineLoad,
    FinishReason,
    KVRef,
    MediaSpan,
    Modality,
    PrefillJob,
    Prompt,
    Stage,
    TokenChunk,
)

_FLOAT = b"\0\0\0\0"
_KV_BYTES_PER_TOKEN = 2 * len(_FLOAT)


class NoopFront:
    """`TextFront` of `noop`: every word, every media item and every output token is one token."""

    name = "noop"
    modalities = frozenset({Modality.TEXT, Modality.IMAGE, Modality.VIDEO})
    max_context = 1 << 20
    kv_bytes_per_token = _KV_BYTES_PER_TOKEN
    eos_token = 1
    default_max_tokens = 8

    def media_tokens(self, modality: Modality, width_px: int, height_px: int, frames: int) -> int:
        """Return 1."""
        return 1

    def prompt(
        self, turns: Sequence[Turn], media_hashes: Sequence[str], media_tokens: Sequence[int]
    ) -> Prompt:
        """Return a placeholder for each media item and a zero for each word."""
        spans = tuple(MediaSpan(offset=i, length=1, content_hash=name) for i, name in enumerate(media_hashes))
        words = sum(len(turn.text.split()) for turn in turns)
        return Prompt(token_ids=(0,) * (len(spans) + max(1, words)), media=spans)

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Return one letter a token."""
        return "x" * len(tokens)


class _NoopEngine:
    """Counts its calls and nothing else."""

    def __init__(self, blobs: BlobStore, limits: EngineLimits) -> None:
        self._blobs = blobs
        self._limits = limits
        self._lock = threading.Lock()
        self._running = 0
        self._steps = 0
        self.failed: BaseException | None = None

    def cancel(self, key: str) -> None:
        """Do nothing: every call ends at once."""

    def pause(self, key: str, paused: bool) -> None:
        """Do nothing: every call ends at once."""

    def load(self) -> EngineLoad:
        """See `Engine`."""
        kv_bytes = self._limits.kv_bytes(1024, _KV_BYTES_PER_TOKEN)
        with self._lock:
            return EngineLoad(
                batch_size=self._running, steps=self._steps, free_kv_bytes=kv_bytes, total_kv_bytes=kv_bytes
            )

    def close(self) -> None:
        """Do nothing: there is no loop."""

    @contextlib.contextmanager
    def _call(self) -> Iterator[None]:
        with self._lock:
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                self._steps += 1


class NoopEncode(_NoopEngine):
    """`EncodeEngine` of `noop`."""

    def encode(self, job: EncodeJob) -> EmbeddingRef:
        """Return one soft token of width 1."""
        with self._call():
            blob = self._blobs.put(_FLOAT, owner=job.request_id, ttl_s=self._limits.blob_ttl_s)
            return EmbeddingRef(blob=blob, content_hash=job.item.content_hash, tokens=1, dim=1)


class NoopPrefill(_NoopEngine):
    """`PrefillEngine` of `noop`."""

    def prefill(self, job: PrefillJob) -> KVRef:
        """Return KV of zeros, [1, 2, 1, tokens, 1]."""
        with self._call():
            tokens = len(job.prompt.token_ids) + len(job.generated)
            zeros = bytes(tokens * _KV_BYTES_PER_TOKEN)
            blob = self._blobs.put(zeros, owner=job.request_id, ttl_s=self._limits.blob_ttl_s)
            return KVRef(blob=blob, tokens=tokens, first_token=0)


class NoopDecode(_NoopEngine):
    """`DecodeEngine` of `noop`."""

    def decode(self, job: DecodeJob, emit: Emit) -> FinishReason:
        """Emit zeros up to max_tokens, one chunk each, at once."""
        with self._call():
            if job.kv:
                self._blobs.get(job.kv.blob)
            last = job.sampling.max_tokens - 1
            for index in range(len(job.generated), last):
                emit(TokenChunk(index=index, tokens=(0,)))
            tokens = (0,) if len(job.generated) <= last else ()
            emit(TokenChunk(index=max(last, len(job.generated)), tokens=tokens, finish=FinishReason.LENGTH))
            return FinishReason.LENGTH


def noop_engine(
    stage: Stage, blobs: BlobStore, limits: EngineLimits
) -> NoopEncode | NoopPrefill | NoopDecode:
    """Return the engine of one stage."""
    match stage:
        case Stage.ENCODE:
            return NoopEncode(blobs, limits)
        case Stage.PREFILL:
            return NoopPrefill(blobs, limits)
        case Stage.DECODE:
            return NoopDecode(blobs, limits)
