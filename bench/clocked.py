"""`tiny` at the pace of an accelerator: its own answers, in steps as long as a larger model's.

`python -m bench.clocked` serves it in place of `python -m workers`. Engines, batches, caches, KV and the
whole path are the real ones; a step computes, and then sleeps until its time is over. So the cores are
mostly idle, as beside GPUs.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

import workers.__main__
from orchestrator.core.profile import DecodeTiming, EncodeTiming, ModelProfile, PrefillTiming
from stages.blobs import BlobStore
from stages.limits import EngineLimits
from stages.models import MODELS, AnyEngine, ModelEntry
from stages.numerics import Array
from stages.reference import ModelParts, reference_engine
from stages.tiny.front import TinyFront
from stages.tiny.language import language_model
from stages.tiny.vision import TinyVision
from stages.tiny.weights import load_weights
from stages.transformer import Segment, Transformer
from stages.types import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds of a step of each stage.

    Attributes:
        image_s: For an image.
        prefill: For a chunk of prompts.
        decode: For a token of every sequence.
    """

    image_s: float
    prefill: PrefillTiming
    decode: DecodeTiming


PACE = Pace(
    image_s=0.150,
    prefill=PrefillTiming(points=((64, 0.048),), floor_s=0.016),
    decode=DecodeTiming(step_s=0.015, sequence_s=0.001, context_token_s=1e-5),
)
"""With two encoders and one prefill, both saturate at nearly the same rate of `cli.pressure.requests.Mix`."""


def clocked_profile(profile: ModelProfile) -> ModelProfile:
    """Return a profile with the times of `PACE` for what it had times for, without a shared host."""
    return replace(
        profile,
        encode={where: EncodeTiming(image_s=PACE.image_s) for where in profile.encode},
        prefill=dict.fromkeys(profile.prefill, PACE.prefill),
        decode=dict.fromkeys(profile.decode, PACE.decode),
        host=None,
    )


class _ClockedVision(TinyVision):
    def encode(self, rgb: NDArray[np.uint8]) -> Array:
        return _lasting(PACE.image_s, lambda: super(_ClockedVision, self).encode(rgb))


class _ClockedTransformer(Transformer):
    def __init__(self, plain: Transformer, step_s: Callable[[Sequence[Segment]], float]) -> None:
        super().__init__(plain.config, plain.weights)
        self._step_s = step_s

    def forward(self, segments: Sequence[Segment]) -> Array:
        return _lasting(self._step_s(segments), lambda: super(_ClockedTransformer, self).forward(segments))


def _lasting(seconds: float, compute: Callable[[], Array]) -> Array:
    """Compute, and return no sooner than so many seconds later."""
    until_s = time.monotonic() + seconds
    computed = compute()
    time.sleep(max(0.0, until_s - time.monotonic()))
    return computed


def _chunk_s(segments: Sequence[Segment]) -> float:
    return PACE.prefill.step_s(sum(len(each.rows) for each in segments))


def _token_s(segments: Sequence[Segment]) -> float:
    return PACE.decode.itl_s(len(segments), sum(each.start + 1 for each in segments))


def _engine(stage: Stage, blobs: BlobStore, limits: EngineLimits) -> AnyEngine:
    step_s = _chunk_s if stage is Stage.PREFILL else _token_s
    parts = ModelParts(
        front=TinyFront(),
        vision=lambda: _ClockedVision(load_weights()),
        language=lambda: _ClockedTransformer(language_model(load_weights()), step_s),
    )
    return reference_engine(parts, stage, blobs, limits)


def main() -> int:
    """Serve the engine as `tiny`'s until told to stop."""
    models = cast("dict[str, ModelEntry]", MODELS)
    models["tiny"] = replace(models["tiny"], engine=_engine)
    return workers.__main__.main()


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    os._exit(code)  # the interpreter's own way out would wait for idle pool threads
