"""The models that this installation can serve, by the name clients use."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, overload

from stages.blobs import BlobStore
from stages.engines import DecodeEngine, EncodeEngine, PrefillEngine
from stages.front import TextFront
from stages.limits import EngineLimits
from stages.types import Stage

AnyEngine = EncodeEngine | PrefillEngine | DecodeEngine


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """How to get at a model; both import its modules on first use.

    Attributes:
        front: Tokenizer and sizes; loads no weights and no numpy.
        engine: A running engine of one stage.
        prepare: What takes long on a machine's first start, such as converting weights; told as it goes.
    """

    front: Callable[[], TextFront]
    engine: Callable[[Stage, BlobStore, EngineLimits], AnyEngine]
    prepare: Callable[[Callable[[str], None]], object] = lambda progress: None


def front(name: str) -> TextFront:
    """Return the front of a model.

    Raises:
        KeyError: There is no such model.
    """
    return MODELS[name].front()


@overload
def build_engine(
    model: str, stage: Literal[Stage.ENCODE], blobs: BlobStore, limits: EngineLimits
) -> EncodeEngine: ...
@overload
def build_engine(
    model: str, stage: Literal[Stage.PREFILL], blobs: BlobStore, limits: EngineLimits
) -> PrefillEngine: ...
@overload
def build_engine(
    model: str, stage: Literal[Stage.DECODE], blobs: BlobStore, limits: EngineLimits
) -> DecodeEngine: ...
@overload
def build_engine(model: str, stage: Stage, blobs: BlobStore, limits: EngineLimits) -> AnyEngine: ...
def build_engine(model: str, stage: Stage, blobs: BlobStore, limits: EngineLimits) -> AnyEngine:
    """Return a running engine of a model's stage; `close` it when done.

    Raises:
        KeyError: There is no such model.
    """
    return MODELS[model].engine(stage, blobs, limits)


def _tiny_front() -> TextFront:
    from stages.tiny.front import TinyFront

    return TinyFront()


def _tiny_engine(stage: Stage, blobs: BlobStore, limits: EngineLimits) -> AnyEngine:
    from stages.reference import ModelParts, reference_engine
    from stages.tiny.language import language_model
    from stages.tiny.vision import TinyVision
    from stages.tiny.weights import load_weights

    parts = ModelParts(
        front=_tiny_front(),
        vision=lambda: TinyVision(load_weights()),
        language=lambda: language_model(load_weights()),
    )
    return reference_engine(parts, stage, blobs, limits)


def _smollm2_front() -> TextFront:
    from stages.smollm2.front import SmolFront

    return SmolFront()


def _smollm2_engine(stage: Stage, blobs: BlobStore, limits: EngineLimits) -> AnyEngine:
    from stages.reference import ModelParts, reference_engine
    from stages.smollm2.model import language_model
    from stages.smollm2.prepare import prepare
    from stages.smollm2.vision import SmolVision

    parts = ModelParts(
        front=_smollm2_front(),
        vision=lambda: SmolVision(prepare()),
        language=lambda: language_model(prepare()),
    )
    return reference_engine(parts, stage, blobs, limits)


def _smollm2_prepare(progress: Callable[[str], None]) -> object:
    from stages.smollm2.prepare import prepare

    return prepare(progress)


def _noop_front() -> TextFront:
    from stages.noop import NoopFront

    return NoopFront()


def _noop_engine(stage: Stage, blobs: BlobStore, limits: EngineLimits) -> AnyEngine:
    from stages.noop import noop_engine

    return noop_engine(stage, blobs, limits)


MODELS: Mapping[str, ModelEntry] = {
    "tiny": ModelEntry(front=_tiny_front, engine=_tiny_engine),
    "smollm2": ModelEntry(front=_smollm2_front, engine=_smollm2_engine, prepare=_smollm2_prepare),
    "noop": ModelEntry(front=_noop_front, engine=_noop_engine),
}
"""Every model by name. A model is added here and nowhere else."""
