"""The reference prefill engine: chunks of prompts through the shared core, behind a prefix cache."""

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from stages.blobs import BlobStore
from stages.engines import InvalidWork
from stages.limits import EngineLimits
from stages.loop import EngineLoop, Task
from stages.numerics import Array
from stages.paged_kv import BlockBudget, PrefixCache
from stages.prefix import BLOCK_TOKENS, block_hashes
from stages.sampling import sample
from stages.transformer import NO_KV, Segment, Transformer
from stages.types import EmbeddingRef, EngineLoad, KVRef, PrefillJob, Prompt, Sampling

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefilled:
    """What the loop hands back.

    Attributes:
        kv: [layers, 2, kv_heads, tokens, head_dim], a copy.
        first_token: Sampled behind the last position.
        cached_tokens: Positions that the prefix cache supplied.
    """

    kv: Array
    first_token: int
    cached_tokens: int


@dataclass(slots=True, kw_only=True, eq=False)
class PrefillTask(Task[Prefilled]):
    """A prompt on its way.

    Attributes:
        rows: Input embeddings of every position, [tokens, width].
        blocks: Names of the prompt's whole blocks.
        index: Index of the token to sample.
        started: It has left the queue and holds blocks.
        slab: The KV once started.
        done: Positions computed or found.
        steps_waited: Steps of others since it came, for aging.
    """

    rows: Array
    blocks: tuple[str, ...]
    sampling: Sampling
    index: int
    started: bool = False
    slab: Array = field(default_factory=lambda: NO_KV)
    done: int = 0
    cached: int = 0
    steps_waited: int = 0

    @property
    def left(self) -> int:
        """Positions still to compute."""
        return len(self.rows) - self.done


class PrefillCore:
    """Batches chunks, the prompt with the least left first; a prompt that waits ages to the front."""

    def __init__(self, model: Transformer, limits: EngineLimits) -> None:
        self._model = model
        self._chunk_tokens = limits.chunk_tokens
        bytes_per_token = model.config.kv_bytes_per_token
        total_bytes = limits.kv_bytes(model.config.max_context, bytes_per_token)
        self.budget = BlockBudget(total_bytes, bytes_per_token * BLOCK_TOKENS)
        self.cache = PrefixCache(self.budget, BLOCK_TOKENS)
        self._waiting: deque[PrefillTask] = deque()
        self._active: list[PrefillTask] = []
        self._batch_size = 0
        self._queries = 0
        self._hits = 0

    def blocks_for(self, tokens: int) -> int:
        """Return the blocks that a slab for `tokens` positions takes."""
        return -(-self._model.config.capacity(tokens) // BLOCK_TOKENS)

    def admit(self, task: PrefillTask) -> None:
        """See `Core`."""
        self._waiting.append(task)

    def drop(self, task: PrefillTask) -> None:
        """See `Core`."""
        if task.started:
            self._release(task)
        else:
            self._waiting.remove(task)

    def step(self) -> bool:
        """See `Core`."""
        self._start_waiting()
        batch = self._pick()
        self._batch_size = len(batch)
        if not batch:
            return False
        outputs = self._model.forward([segment for _, segment in batch])
        self._advance(batch, outputs)
        return True

    def load(self) -> EngineLoad:
        """See `Core`."""
        return EngineLoad(
            queued_tokens=sum(t.left for t in self._waiting),
            running_tokens=sum(t.left for t in self._active),
            batch_size=self._batch_size if self._active else 0,
            # Pages of the prefix cache give way to any prompt, so they count as free.
            free_kv_bytes=self.budget.free_bytes + self.cache.evictable_blocks * self.budget.block_bytes,
            total_kv_bytes=self.budget.total_bytes,
            cache_queries=self._queries,
            cache_hits=self._hits,
        )

    def _start_waiting(self) -> None:
        while self._waiting:
            task = self._waiting[0]
            blocks = self.blocks_for(len(task.rows))
            self.cache.match(task.blocks)
            if not self.cache.make_room(blocks):
                return
            self.budget.take(blocks)
            self._active.append(self._waiting.popleft())
            self._open(task)

    def _open(self, task: PrefillTask) -> None:
        task.started = True
        task.slab = self._model.new_slab(len(task.rows))
        # The last position is always computed: its output gives the next token.
        usable = task.blocks[: (len(task.rows) - 1) // BLOCK_TOKENS]
        hit = self.cache.match(usable)
        self.cache.load(usable[:hit], task.slab)
        task.done = task.cached = hit * BLOCK_TOKENS
        self._queries += len(task.rows)
        self._hits += task.cached

    def _pick(self) -> list[tuple[PrefillTask, Segment]]:
        batch = []
        room = self._chunk_tokens
        self._active.sort(key=lambda t: t.left - t.steps_waited * self._chunk_tokens)
        for task in self._active:
            count = min(task.left, room)
            room -= count
            if count:
                rows = task.rows[task.done : task.done + count]
                batch.append((task, Segment(slab=task.slab, start=task.done, rows=rows)))
            else:
                task.steps_waited += 1
        return batch

    def _advance(self, batch: Sequence[tuple[PrefillTask, Segment]], outputs: Array) -> None:
        finished, last_rows, row = [], [], 0
        for task, segment in batch:
            row += len(segment.rows)
            task.done += len(segment.rows)
            if not task.left:
                finished.append(task)
                last_rows.append(row - 1)
        if finished:
            for task, logits in zip(finished, self._model.logits(outputs[last_rows]), strict=True):
                self._finish(task, logits)

    def _finish(self, task: PrefillTask, logits: Array) -> None:
        kv = np.ascontiguousarray(task.slab[:, :, :, : task.done])
        self._release(task)
        self.cache.store(task.blocks, kv)
        token = sample(logits, task.sampling, task.index)
        task.future.set_result(Prefilled(kv=kv, first_token=token, cached_tokens=task.cached))

    def _release(self, task: PrefillTask) -> None:
        self._active.remove(task)
        task.slab = NO_KV
        self.budget.give(self.blocks_for(len(task.rows)))


class ReferencePrefill:
    """`PrefillEngine` in numpy."""

    def __init__(self, model: Transformer, blobs: BlobStore, limits: EngineLimits) -> None:
        self._model = model
        self._blobs = blobs
        self._limits = limits
        self._core = PrefillCore(model, limits)
        self.loop = EngineLoop(self._core, "prefill-loop")
        self.cancel = self.loop.cancel
        self.pause = self.loop.pause
        self.load = self.loop.load
        self.close = self.loop.close

    @property
    def failed(self) -> BaseException | None:
        """See `EngineLoop.failed`."""
        return self.loop.failed

    def prefill(self, job: PrefillJob) -> KVRef:
        """See `PrefillEngine`."""
        task = self._task(job)
        self.loop.run(task)
        done = task.future.result()
        blob = self._blobs.put(done.kv.data, owner=job.request_id, ttl_s=self._limits.blob_ttl_s)
        return KVRef(
            blob=blob,
            tokens=done.kv.shape[3],
            first_token=done.first_token,
            cached_tokens=done.cached_tokens,
        )

    def _task(self, job: PrefillJob) -> PrefillTask:
        prompt = replace(job.prompt, token_ids=job.prompt.token_ids + job.generated)
        self._check(prompt, job.embeddings)
        return PrefillTask(
            key=job.key,
            deadline_unix_s=job.deadline_unix_s,
            tokens=len(prompt.token_ids),
            rows=self._rows(prompt, job.embeddings),
            blocks=block_hashes(prompt, BLOCK_TOKENS),
            sampling=job.sampling,
            index=len(job.generated),
        )

    def _check(self, prompt: Prompt, embeddings: Sequence[EmbeddingRef]) -> None:
        config, tokens = self._model.config, len(prompt.token_ids)
        vocabulary = len(self._model.weights.embedding)
        if not 0 < tokens <= config.max_context:
            raise InvalidWork(f"a prompt of {tokens} tokens; 1 to {config.max_context} are possible")
        if self._core.blocks_for(tokens) > self._core.budget.total_blocks:
            raise InvalidWork(f"a prompt of {tokens} tokens needs more KV memory than the engine has")
        if not all(0 <= token < vocabulary for token in prompt.token_ids):
            raise InvalidWork(f"a token id is outside 0 to {vocabulary - 1}")
        spans = [(s.content_hash, s.length, config.width) for s in prompt.media]
        if spans != [(e.content_hash, e.tokens, e.dim) for e in embeddings]:
            raise InvalidWork("the embeddings do not fit the prompt's media spans")

    def _rows(self, prompt: Prompt, embeddings: Sequence[EmbeddingRef]) -> Array:
        rows = self._model.embed(prompt.token_ids)
        for span, ref in zip(prompt.media, embeddings, strict=True):
            soft = np.frombuffer(self._blobs.get(ref.blob), np.float32)
            target = rows[span.offset : span.offset + span.length]
            if soft.size != target.size or len(target) != span.length:
                raise InvalidWork(f"embedding {ref.content_hash} has the wrong size")
            target[:] = soft.reshape(target.shape)
        return rows
