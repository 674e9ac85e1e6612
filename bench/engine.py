"""`engine`: what tiny's three engines cost without any path around them."""

import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict, TypeVar

from bench.images import digit
from bench.report import Figure, Say, figure
from stages.blobs import BlobSettings, BlobStore, open_store
from stages.front import Turn
from stages.limits import EngineLimits
from stages.models import build_engine, front
from stages.types import (
    DecodeJob,
    EmbeddingRef,
    EncodeJob,
    KVRef,
    MediaItem,
    Modality,
    PrefillJob,
    Sampling,
    Stage,
    TokenChunk,
)

T = TypeVar("T")
R = TypeVar("R")

BATCHES = (1, 8, 32)
_TOKENS = 10
_QUESTION = "describe the image ."


def run(say: Say, quick: bool) -> list[Figure]:
    """Run each stage over the same images, at several concurrencies."""
    rounds, images = (2, 64) if quick else (5, 256)
    with tempfile.TemporaryDirectory(prefix="tercet-bench-") as folder:
        store = open_store(BlobSettings(dir=Path(folder)))
        return _Engines(store).run(say, rounds, images)


class _Fields(TypedDict):
    """What every job has."""

    request_id: str
    hop: str
    attempt: int
    reply_to: str
    model: str
    deadline_unix_s: float


class _Engines:
    def __init__(self, store: BlobStore) -> None:
        self._store = store
        limits = EngineLimits(embedding_cache_bytes=0, kv_budget_bytes=64 * 2**20)
        self._encode = build_engine("tiny", Stage.ENCODE, store, limits)
        self._prefill = build_engine("tiny", Stage.PREFILL, store, limits)
        self._decode = build_engine("tiny", Stage.DECODE, store, limits)
        self._numbers = 0

    def run(self, say: Say, rounds: int, images: int) -> list[Figure]:
        """Measure; each round has jobs of its own."""
        found: list[Figure] = []
        items = [self._item(index) for index in range(images)]
        for batch in BATCHES:
            encode_ms, prefill_ms, decode_ms, tokens_per_s = [], [], [], []
            for number in range(rounds):
                say(f"{batch} at once, round {number + 1}/{rounds}")
                jobs = [EncodeJob(item=item, **self._fields("encode.0")) for item in items]
                cpu_s, _, refs = _timed(self._encode.encode, jobs, batch)
                encode_ms.append(1e3 * cpu_s / images)
                prefills = [self._prefill_job(item, ref) for item, ref in zip(items, refs, strict=True)]
                cpu_s, _, kvs = _timed(self._prefill.prefill, prefills, batch)
                prefill_ms.append(1e3 * cpu_s / images)
                cpu_s, wall_s, counts = _timed(self._count, kvs, batch)
                decode_ms.append(1e3 * cpu_s / images)
                tokens_per_s.append(sum(counts) / wall_s)
            found += [
                figure(f"engine.encode.{batch}", encode_ms, "ms CPU"),
                figure(f"engine.prefill.{batch}", prefill_ms, "ms CPU"),
                figure(f"engine.decode.{batch}", decode_ms, "ms CPU"),
                figure(f"engine.decode.{batch}.tokens", tokens_per_s, "tokens/s"),
            ]
        return found

    def _item(self, index: int) -> MediaItem:
        blob = self._store.put(digit(index), owner="bench", ttl_s=600.0)
        return MediaItem(
            modality=Modality.IMAGE,
            blob=blob,
            content_hash=blob.sha256,
            width_px=96,
            height_px=96,
            frames=1,
            tokens=front("tiny").media_tokens(Modality.IMAGE, 96, 96, 1),
        )

    def _prefill_job(self, item: MediaItem, ref: EmbeddingRef) -> PrefillJob:
        turn = Turn(role="user", text=_QUESTION, media=(0,))
        prompt = front("tiny").prompt([turn], [item.content_hash], [item.tokens])
        sampling = Sampling(max_tokens=_TOKENS)
        return PrefillJob(prompt=prompt, embeddings=(ref,), sampling=sampling, **self._fields("prefill"))

    def _count(self, kv: KVRef) -> int:
        """Decode and return the number of tokens."""
        tokens = 0

        def emit(chunk: TokenChunk) -> None:
            nonlocal tokens
            tokens += len(chunk.tokens)

        job = DecodeJob(kv=kv, sampling=Sampling(max_tokens=_TOKENS), **self._fields("decode"))
        self._decode.decode(job, emit)
        return tokens

    def _fields(self, hop: str) -> _Fields:
        self._numbers += 1
        return {
            "request_id": f"r{self._numbers}",
            "hop": hop,
            "attempt": 1,
            "reply_to": "",
            "model": "tiny",
            "deadline_unix_s": time.time() + 600.0,
        }


def _timed(call: Callable[[T], R], jobs: Sequence[T], batch: int) -> tuple[float, float, list[R]]:
    """Return processor seconds, wall seconds and results of all calls, `batch` at a time."""
    with ThreadPoolExecutor(batch) as pool:
        cpu_s, wall_s = time.process_time(), time.monotonic()
        results = list(pool.map(call, jobs))
        return time.process_time() - cpu_s, time.monotonic() - wall_s, results
