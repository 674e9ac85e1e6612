"""The three stages in one process, through the same engines: the reference that workers must equal."""

import hashlib
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypedDict

from stages.blobs import BlobStore
from stages.front import Turn
from stages.limits import EngineLimits
from stages.memory_blobs import MemoryBlobs
from stages.models import build_engine, front
from stages.stop import StopText
from stages.types import (
    DecodeJob,
    EmbeddingRef,
    EncodeJob,
    FinishReason,
    KVRef,
    MediaItem,
    Modality,
    PrefillJob,
    Prompt,
    Sampling,
    Stage,
    TokenChunk,
)


class _JobFields(TypedDict):
    request_id: str
    hop: str
    attempt: int
    reply_to: str
    model: str
    deadline_unix_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A finished completion.

    Attributes:
        text: Up to a stop string, which is not part of it.
        tokens: As the engine emitted them, without the end-of-sequence token.
    """

    text: str
    tokens: tuple[int, ...]
    finish: FinishReason


class Generator:
    """A model's three engines in this process; safe to use from several threads.

    Use as a context manager, or call `close`.
    """

    def __init__(
        self, model: str, limits: EngineLimits | None = None, blobs: BlobStore | None = None
    ) -> None:
        limits = limits or EngineLimits()
        self.model = model
        self.front = front(model)
        self.blobs = blobs or MemoryBlobs()
        self.encoder = build_engine(model, Stage.ENCODE, self.blobs, limits)
        self.prefiller = build_engine(model, Stage.PREFILL, self.blobs, limits)
        self.decoder = build_engine(model, Stage.DECODE, self.blobs, limits)
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the engines."""
        for engine in (self.encoder, self.prefiller, self.decoder):
            engine.close()

    def generate(
        self, turns: Sequence[Turn], images: Sequence[bytes] = (), sampling: Sampling | None = None
    ) -> Completion:
        """Return the completion of a conversation whose media indices point into `images`.

        Raises:
            UnknownWord: See `ModelFront.prompt`.
            StageError: See the engines.
        """
        sampling = sampling or Sampling(max_tokens=self.front.default_max_tokens)
        request_id = f"local-{next(self._numbers)}"
        try:
            embeddings = tuple(self.encode(request_id, image) for image in images)
            prompt = self.front.prompt(
                turns, [e.content_hash for e in embeddings], [e.tokens for e in embeddings]
            )
            kv = self.prefill(request_id, prompt, embeddings, sampling)
            return self.decode(request_id, kv, sampling)
        finally:
            self.blobs.release(request_id)

    def encode(self, request_id: str, image: bytes, frames: int = 1) -> EmbeddingRef:
        """Run the first stage on the bytes of one image file."""
        modality = Modality.IMAGE if frames == 1 else Modality.VIDEO
        item = MediaItem(
            modality=modality,
            blob=self.blobs.put(image, owner=request_id, ttl_s=600.0),
            content_hash=hashlib.sha256(image).hexdigest(),
            width_px=0,
            height_px=0,
            frames=frames,
            tokens=self.front.media_tokens(modality, 0, 0, frames),
        )
        return self.encoder.encode(EncodeJob(**self._job(request_id, "encode.0"), item=item))

    def prefill(
        self,
        request_id: str,
        prompt: Prompt,
        embeddings: Sequence[EmbeddingRef],
        sampling: Sampling,
        generated: Sequence[int] = (),
    ) -> KVRef:
        """Run the second stage."""
        return self.prefiller.prefill(
            PrefillJob(
                **self._job(request_id, "prefill"),
                prompt=prompt,
                embeddings=_in_span_order(prompt, embeddings),
                sampling=sampling,
                generated=tuple(generated),
            )
        )

    def decode(
        self, request_id: str, kv: KVRef, sampling: Sampling, generated: Sequence[int] = ()
    ) -> Completion:
        """Run the third stage; the text and tokens include `generated`."""
        chunks: list[TokenChunk] = []
        finish = self.decoder.decode(
            DecodeJob(
                **self._job(request_id, "decode"), kv=kv, sampling=sampling, generated=tuple(generated)
            ),
            chunks.append,
        )
        tokens = (*generated, *(token for chunk in chunks for token in chunk.tokens))
        text = StopText(self.front.detokenize, sampling.stop)
        return Completion(text=text.push(tokens) + text.finish(), tokens=tokens, finish=finish)

    def _job(self, request_id: str, hop: str) -> _JobFields:
        return {
            "request_id": request_id,
            "hop": hop,
            "attempt": next(self._numbers),
            "reply_to": "",
            "model": self.model,
            "deadline_unix_s": time.time() + 600.0,
        }


def generate(
    model: str, turns: Sequence[Turn], images: Sequence[bytes] = (), sampling: Sampling | None = None
) -> Completion:
    """Return one completion from engines of its own; see `Generator.generate`."""
    with Generator(model) as generator:
        return generator.generate(turns, images, sampling)


def _in_span_order(prompt: Prompt, embeddings: Sequence[EmbeddingRef]) -> tuple[EmbeddingRef, ...]:
    by_hash = {e.content_hash: e for e in embeddings}
    return tuple(by_hash[span.content_hash] for span in prompt.media)
