import dataclasses

import numpy as np

from orchestrator.profiles import find_profile
from orchestrator.simulator.variant import Variant, as_variant
from orchestrator.simulator.work import work_from_rows

from .workloads import workload

MODEL = find_profile("internvl-26b")  # five tiles an image


def load():
    """Requests of 0, 3 and 40 images, with 700, 90 and 500 tokens of text."""
    return dataclasses.replace(
        workload([0.0, 1.0, 2.0]),
        images=np.array([0, 3, 40], np.int32),
        context_tokens=np.array([700, 3 * 576 + 90, 40 * 576 + 500], np.int32),
    )


def images(variant):
    return as_variant(load(), variant, MODEL).images.tolist()


def test_images_are_clipped_or_not_or_tiles():
    assert images(Variant.CLIPPED) == [0, 3, 16]
    assert images(Variant.UNCLIPPED) == [0, 3, 40]
    assert images(Variant.TILES) == [0, 1, 8]


def test_text_is_the_same_in_every_variant():
    for variant in Variant:
        work = work_from_rows(as_variant(load(), variant, MODEL), MODEL)
        assert work.text_tokens.tolist() == [700, 90, 500]
        assert np.array_equal(work.prompt_tokens, work.text_tokens + work.images * 1280)


def test_every_variant_is_named():
    labels = [as_variant(load(), variant, MODEL).label for variant in Variant]
    assert labels == [
        "real, images clipped to 16",
        "real, images unclipped",
        "real, images as tiles, 5 an image",
    ]
