"""Builds a reference engine from a model's parts, loading only the weights that its stage needs."""

from collections.abc import Callable
from dataclasses import dataclass

from stages.blobs import BlobStore
from stages.decode_engine import ReferenceDecode
from stages.encode_engine import ReferenceEncode, Vision
from stages.front import TextFront
from stages.limits import EngineLimits
from stages.prefill_engine import ReferencePrefill
from stages.transformer import Transformer
from stages.types import Stage

__all__ = ["ModelParts", "ReferenceDecode", "ReferenceEncode", "ReferencePrefill", "reference_engine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParts:
    """What a model brings: its front, and loaders of its two networks."""

    front: TextFront
    vision: Callable[[], Vision]
    language: Callable[[], Transformer]


def reference_engine(
    parts: ModelParts, stage: Stage, blobs: BlobStore, limits: EngineLimits
) -> ReferenceEncode | ReferencePrefill | ReferenceDecode:
    """Return a running engine of one stage."""
    match stage:
        case Stage.ENCODE:
            return ReferenceEncode(parts.vision(), blobs, limits)
        case Stage.PREFILL:
            return ReferencePrefill(parts.language(), blobs, limits)
        case Stage.DECODE:
            return ReferenceDecode(parts.language(), parts.front, blobs, limits)
