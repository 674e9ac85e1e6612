"""A decode engine that computes nothing and emits at a fixed pace; `python -m bench.paced` serves it.

It batches, pauses and cancels as real engines do, since it runs on their loop.
"""

import logging
import os
import time
from dataclasses import dataclass, replace
from typing import cast

import workers.__main__
from stages.engines import Emit
from stages.loop import EngineLoop, Task
from stages.models import MODELS, ModelEntry
from stages.types import DecodeJob, EngineLoad, FinishReason, TokenChunk

STEP_S = "BENCH_STEP_S"
TOKENS_PER_STEP = "BENCH_TOKENS_PER_STEP"


@dataclass(slots=True, kw_only=True, eq=False)
class _Decode(Task[FinishReason]):
    job: DecodeJob
    emit: Emit
    index: int


class _Core:
    """`stages.loop.Core`: each step gives every running decode its next tokens."""

    def __init__(self, step_s: float, tokens_per_step: int) -> None:
        self._step_s = step_s
        self._tokens_per_step = tokens_per_step
        self._running: list[_Decode] = []
        self._next_s = 0.0

    def admit(self, task: _Decode) -> None:
        self._running.append(task)

    def drop(self, task: _Decode) -> None:
        if task in self._running:
            self._running.remove(task)

    def step(self) -> bool:
        ready = [task for task in self._running if not task.paused]
        if not ready:
            return False
        now_s = time.monotonic()
        self._next_s = max(self._next_s + self._step_s, now_s)
        time.sleep(self._next_s - now_s)
        for task in ready:
            self._advance(task)
        return True

    def load(self) -> EngineLoad:
        return EngineLoad(batch_size=len(self._running))

    def _advance(self, task: _Decode) -> None:
        last = task.job.sampling.max_tokens
        tokens = min(self._tokens_per_step, last - task.index)
        done = task.index + tokens >= last
        finish = FinishReason.LENGTH if done else None
        task.emit(TokenChunk(index=task.index, tokens=(0,) * tokens, finish=finish))
        task.index += tokens
        if done:
            self.drop(task)
            task.future.set_result(FinishReason.LENGTH)


class PacedDecode:
    """`DecodeEngine` with steps of a fixed length and a fixed number of tokens per step."""

    def __init__(self, step_s: float, tokens_per_step: int = 1) -> None:
        self._loop = EngineLoop(_Core(step_s, tokens_per_step), "paced")
        self.cancel = self._loop.cancel
        self.pause = self._loop.pause
        self.load = self._loop.load
        self.close = self._loop.close

    @property
    def failed(self) -> BaseException | None:
        """See `EngineLoop`."""
        return self._loop.failed

    def decode(self, job: DecodeJob, emit: Emit) -> FinishReason:
        """Emit zeros up to max_tokens."""
        task = _Decode(
            key=job.key,
            deadline_unix_s=job.deadline_unix_s,
            tokens=job.sampling.max_tokens,
            job=job,
            emit=emit,
            index=len(job.generated),
        )
        self._loop.run(task)
        return task.future.result()


def main() -> int:
    """Serve the engine as `noop`'s until told to stop."""
    engine = PacedDecode(float(os.environ[STEP_S]), int(os.environ[TOKENS_PER_STEP]))
    models = cast("dict[str, ModelEntry]", MODELS)
    models["noop"] = replace(models["noop"], engine=lambda _stage, _blobs, _limits: engine)
    return workers.__main__.main()


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    os._exit(code)  # the interpreter's own way out would wait for idle pool threads
