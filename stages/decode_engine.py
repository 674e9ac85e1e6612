"""The reference decode engine: continuous batching over the shared core."""

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from stages.blobs import BlobStore
from stages.engines import Emit, InvalidWork
from stages.front import TextFront
from stages.limits import EngineLimits
from stages.loop import EngineLoop, Task
from stages.numerics import Array
from stages.paged_kv import BlockBudget
from stages.prefix import BLOCK_TOKENS
from stages.sampling import sample
from stages.stop import StopText
from stages.transformer import NO_KV, Segment, Transformer
from stages.types import DecodeJob, EngineLoad, FinishReason, KVRef, Sampling, TokenChunk

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True, eq=False)
class DecodeTask(Task[FinishReason]):
    """A completion on its way.

    Attributes:
        kv: Prefill's KV, [layers, 2, kv_heads, tokens, head_dim], read once at admission.
        position: Where the KV of `token` goes.
        index: Index of `token` in the completion.
        token: The newest token, not yet in the slab.
        last_index: Index of the last token that may be emitted.
        text: Follows the text; None if no stop string was asked for.
        blocks: Blocks of its worst case, taken while it runs.
        started: It has left the queue and holds `blocks`.
        slab: Its KV once started.
    """

    kv: Array
    position: int
    index: int
    token: int
    last_index: int
    blocks: int
    sampling: Sampling
    emit: Emit
    text: StopText | None
    started: bool = False
    slab: Array = field(default_factory=lambda: NO_KV)


class DecodeCore:
    """One token of each running completion per step; completions join and leave between steps."""

    def __init__(self, model: Transformer, eos_token: int, limits: EngineLimits) -> None:
        self._model = model
        self._eos_token = eos_token
        self._max_batch = limits.max_batch
        bytes_per_token = model.config.kv_bytes_per_token
        total_bytes = limits.kv_bytes(model.config.max_context, bytes_per_token)
        self.budget = BlockBudget(total_bytes, bytes_per_token * BLOCK_TOKENS)
        self._waiting: deque[DecodeTask] = deque()
        self._active: list[DecodeTask] = []
        self._batch_size = 0

    def blocks_for(self, tokens: int) -> int:
        """Return the blocks that a slab for `tokens` positions takes."""
        return -(-self._model.config.capacity(tokens) // BLOCK_TOKENS)

    def admit(self, task: DecodeTask) -> None:
        """See `Core`."""
        self._waiting.append(task)

    def drop(self, task: DecodeTask) -> None:
        """See `Core`."""
        if task.started:
            self._release(task)
        else:
            self._waiting.remove(task)

    def step(self) -> bool:
        """See `Core`."""
        started = self._start_waiting()
        # In order of length: rows with equally many KV tiles attend in one call when they are neighbours.
        batch = sorted((t for t in self._active if not t.paused), key=lambda t: t.position)
        self._batch_size = len(batch)
        if not batch:
            return started
        for task, token in zip(batch, self._next_tokens(batch), strict=True):
            task.position += 1
            task.index += 1
            task.token = token
            self._deliver(task)
        return True

    def load(self) -> EngineLoad:
        """See `Core`."""
        return EngineLoad(
            queued_tokens=sum(_left(t) for t in self._waiting),
            running_tokens=sum(_left(t) for t in self._active),
            batch_size=self._batch_size if self._active else 0,
            free_kv_bytes=self.budget.free_bytes,
            total_kv_bytes=self.budget.total_bytes,
        )

    def _start_waiting(self) -> bool:
        """Admit in order of arrival as long as the worst case of the next one fits."""
        started = False
        while self._waiting and len(self._active) < self._max_batch:
            task = self._waiting[0]
            if not self.budget.take(task.blocks):
                break
            self._active.append(self._waiting.popleft())
            self._open(task)
            started = True
        return started

    def _open(self, task: DecodeTask) -> None:
        task.started = True
        task.slab = self._model.new_slab(task.position + max(0, task.last_index - task.index))
        task.slab[:, :, :, : task.position] = task.kv
        task.kv = NO_KV  # lets the blob's memory go
        self._deliver(task)

    def _next_tokens(self, batch: Sequence[DecodeTask]) -> list[int]:
        rows = self._model.embed([task.token for task in batch])
        outputs = self._model.forward(
            [
                Segment(slab=task.slab, start=task.position, rows=rows[i : i + 1])
                for i, task in enumerate(batch)
            ]
        )
        logits = self._model.logits(outputs)
        return [sample(row, t.sampling, t.index + 1) for row, t in zip(logits, batch, strict=True)]

    def _deliver(self, task: DecodeTask) -> None:
        """Emit the task's newest token and end the task if it is the last one."""
        kept, finish = self._verdict(task)
        tokens = (task.token,) if kept else ()
        try:
            task.emit(TokenChunk(index=task.index, tokens=tokens, finish=finish))
        except Exception as error:
            _log.exception("emit failed for %s; its decode ends", task.key)
            self._release(task)
            task.future.set_exception(error)
            return
        if finish is not None:
            self._release(task)
            task.future.set_result(finish)

    def _verdict(self, task: DecodeTask) -> tuple[bool, FinishReason | None]:
        """Return whether the newest token is part of the completion, and whether that ends with it."""
        if task.text is not None and task.text.stopped:
            return False, FinishReason.STOP
        if task.index > task.last_index:
            return False, FinishReason.LENGTH
        if task.token == self._eos_token:
            return False, FinishReason.STOP
        if task.text is not None:
            task.text.push((task.token,))
            if task.text.stopped:
                return True, FinishReason.STOP
        return True, FinishReason.LENGTH if task.index == task.last_index else None

    def _release(self, task: DecodeTask) -> None:
        self._active.remove(task)
        task.slab = NO_KV
        self.budget.give(task.blocks)


def _left(task: DecodeTask) -> int:
    return max(0, task.last_index - task.index + 1)


class ReferenceDecode:
    """`DecodeEngine` in numpy."""

    def __init__(self, model: Transformer, front: TextFront, blobs: BlobStore, limits: EngineLimits) -> None:
        self._model = model
        self._front = front
        self._blobs = blobs
        self._core = DecodeCore(model, front.eos_token, limits)
        self.loop = EngineLoop(self._core, "decode-loop")
        self.cancel = self.loop.cancel
        self.pause = self.loop.pause
        self.load = self.loop.load
        self.close = self.loop.close

    @property
    def failed(self) -> BaseException | None:
        """See `EngineLoop.failed`."""
        return self.loop.failed

    def decode(self, job: DecodeJob, emit: Emit) -> FinishReason:
        """See `DecodeEngine`."""
        task = self._task(job, emit)
        self.loop.run(task)
        return task.future.result()

    def _task(self, job: DecodeJob, emit: Emit) -> DecodeTask:
        if job.kv is None:
            raise InvalidWork("this engine decodes behind a KV cache and prefills nothing")
        index, position = len(job.generated), job.kv.tokens
        # The last token emitted needs no place in the cache.
        last_index = min(job.sampling.max_tokens - 1, index + self._model.config.max_context - position)
        blocks = self._core.blocks_for(position + max(0, last_index - index))
        if blocks > self._core.budget.total_blocks:
            raise InvalidWork(f"a context of {position} tokens needs more KV memory than the engine has")
        return DecodeTask(
            key=job.key,
            deadline_unix_s=job.deadline_unix_s,
            tokens=max(0, last_index - index + 1),
            kv=self._kv(job.kv),
            position=position,
            index=index,
            token=job.kv.first_token,
            last_index=last_index,
            blocks=blocks,
            sampling=job.sampling,
            emit=emit,
            text=self._text(job),
        )

    def _text(self, job: DecodeJob) -> StopText | None:
        if not job.sampling.stop:
            return None
        text = StopText(self._front.detokenize, job.sampling.stop)
        text.push(job.generated)
        return text

    def _kv(self, ref: KVRef) -> Array:
        config = self._model.config
        if not 0 < ref.tokens <= config.max_context:
            raise InvalidWork(f"KV of {ref.tokens} tokens; 1 to {config.max_context} are possible")
        kv = np.frombuffer(self._blobs.get(ref.blob), np.float32)
        shape = (config.layers, 2, config.kv_heads, ref.tokens, config.head_dim)
        if kv.size != np.prod(shape):
            raise InvalidWork(f"KV of {kv.nbytes} bytes is not {shape} of float32")
        return kv.reshape(shape)
