"""What a stage's engine promises, whatever computes behind it.

An engine is one per process and is called from many pool threads at once: a call blocks its thread
until the work is done, while the engine's own loop batches everything it has accepted. References go
in and out, so that an engine with its own connector (vLLM, SGLang) never shows its tensors to us.
"""

from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

from stages.types import (
    DecodeJob,
    EmbeddingRef,
    EncodeJob,
    EngineLoad,
    FinishReason,
    KVRef,
    PrefillJob,
    Stage,
    TokenChunk,
)

Emit = Callable[[TokenChunk], None]
"""Called by the engine's loop with each new chunk; must not block."""


class StageError(Exception):
    """Work that ended without a result, for a reason that the pipeline can act on."""


EXIT_ROLE_REFUSED = 76
"""Code of a worker that has ended for `RoleRefused`: to start it again is in vain."""


class RoleRefused(RuntimeError):
    """An engine does another stage than it is to do, and does not change to that; the message says why."""


class InvalidWork(StageError):
    """The input can never be served: not an image, beyond the context, wrong shape. Not retried."""


class BlobUnavailable(StageError):
    """A handle's bytes are gone or fail their checksum; the stage that made it must run again.

    Attributes:
        uri: The handle's address.
    """

    def __init__(self, uri: str, why: str) -> None:
        super().__init__(f"{uri}: {why}")
        self.uri = uri


class EngineRefused(StageError):
    """The engine did not do it for a reason of its own, such as an internal error; another one may."""


class AnswerDiverged(StageError):
    """A second try does not say what the first has said, so that it cannot be continued. Not retried."""


class WorkCancelled(StageError):
    """`cancel` was called for this work."""


class DeadlineExceeded(StageError):
    """The job's deadline passed before the work was done."""


class Engine(Protocol):
    """What the worker needs of any engine besides its one verb."""

    @property
    def failed(self) -> BaseException | None:
        """What broke the engine for good, None while it is sound. Its process must end then."""

    def cancel(self, key: str) -> None:
        """Stop the work with this `Job.key` at the next step and free its KV and embeddings.

        Unknown keys are remembered until the job arrives or its deadline passes.
        """

    def pause(self, key: str, paused: bool) -> None:
        """Hold back or go on with a decode whose reader is slow; its KV stays. Others ignore it."""

    def load(self) -> EngineLoad:
        """Return the current load. Any thread; never blocks on a step."""

    def close(self) -> None:
        """Stop the loop; work still accepted ends with `WorkCancelled`."""


class EncodeEngine(Engine, Protocol):
    """Media to soft tokens."""

    def encode(self, job: EncodeJob) -> EmbeddingRef:
        """Return soft tokens, float32 [job.item.tokens, dim].

        Raises:
            InvalidWork: The bytes are no image, or are truncated.
            BlobUnavailable, WorkCancelled, DeadlineExceeded: See there.
        """


class PrefillEngine(Engine, Protocol):
    """Prompt and soft tokens to a KV cache and one token."""

    def prefill(self, job: PrefillJob) -> KVRef:
        """Return KV float32 [layers, 2, kv_heads, len(prompt) + len(generated), head_dim].

        Raises:
            InvalidWork: Beyond the context, or embeddings that do not fit the prompt's spans.
            BlobUnavailable, WorkCancelled, DeadlineExceeded: See there.
        """


@runtime_checkable
class MeetsOthers(Protocol):
    """An engine that calls engines of other stages by itself, and has to be told which there are.

    Attributes:
        meets: Those stages; none if it only might call others.
    """

    meets: frozenset[Stage]

    def meet(self, stage: Stage, urls: Iterable[str]) -> None:
        """Have it call a stage's engines at these addresses from now on, and no others; see `EngineLoad`.

        Raises:
            EngineRefused: It was not done.
        """


class DecodeEngine(Engine, Protocol):
    """A KV cache to the other tokens."""

    def decode(self, job: DecodeJob, emit: Emit) -> FinishReason:
        """Emit every token from index len(job.generated) on, the first being `job.kv.first_token`.

        The last chunk carries the finish reason, which is also returned. Chunks of one job come in
        order and without gaps.

        Raises:
            InvalidWork: The KV does not fit the model, or can never fit the KV budget.
            BlobUnavailable, WorkCancelled, DeadlineExceeded: See there.
        """
