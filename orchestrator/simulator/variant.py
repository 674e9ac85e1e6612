"""Ways to read the images that a trace counts."""

from dataclasses import replace
from enum import StrEnum

from orchestrator.core.profile import ModelProfile
from orchestrator.simulator.workload import Workload

IMAGES_AT_MOST = 16
"""Images of a request are clipped to this, as in ModServe's evaluation."""


class Variant(StrEnum):
    """What `NumImages` of a trace is taken for.

    Attributes:
        CLIPPED: Images, of which a request has `IMAGES_AT_MOST`.
        UNCLIPPED: Images, however many.
        TILES: Tiles, of which the model makes one image's many from each image.
    """

    CLIPPED = "clipped"
    UNCLIPPED = "unclipped"
    TILES = "tiles"


def as_variant(work: Workload, variant: Variant, model: ModelProfile) -> Workload:
    """Return the requests as a variant has them; their label says which."""
    if variant is Variant.CLIPPED:
        return work.clipped(IMAGES_AT_MOST)
    if variant is Variant.TILES:
        return work.of_tiles(model.image_tiles)
    return replace(work, label=f"{work.label}, images unclipped")
