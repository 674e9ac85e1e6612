import pytest

from orchestrator.core.image_size import ImageSizeError, for_images, tiles_of
from orchestrator.profiles import find_profile

MODELS = (
    "internvl-26b",
    "llama-3.2-11b",
    "llama-3.2-90b",
    "llava-onevision-7b",
    "llava-onevision-72b",
    "nvlm-d-72b",
)


@pytest.mark.parametrize(
    ("px", "tile_px", "thumbnail", "tiles"),
    [
        pytest.param(448, 448, True, 1, id="one tile is the whole"),
        pytest.param(449, 448, True, 5, id="and with several comes a thumbnail"),
        pytest.param(896, 448, True, 5, id="internvl"),
        pytest.param(896, 384, True, 10, id="llava-onevision"),
        pytest.param(896, 560, False, 4, id="llama-3.2"),
    ],
)
def test_an_image_is_cut_into_tiles(px, tile_px, thumbnail, tiles):
    assert tiles_of(px, tile_px, thumbnail=thumbnail) == tiles


@pytest.mark.parametrize("name", MODELS)
def test_the_tiles_of_the_shipped_profiles_are_those_of_their_size(name):
    profile = find_profile(name)
    assert tiles_of(profile.image_px, profile.tile_px, thumbnail=profile.thumbnail) == profile.image_tiles
    assert for_images(profile, profile.image_px) is profile


def test_work_and_bytes_go_with_the_tiles_and_preparing_with_the_pixels():
    """An image of 448 px is one tile of InternVL instead of five, and a quarter of the pixels."""
    whole = find_profile("internvl-26b")
    small = for_images(whole, 448)
    assert (small.image_tiles, small.image_tokens, small.embedding_bytes) == (1, 256, 15_728_640 // 5)
    assert small.preprocess_s == pytest.approx(whole.preprocess_s / 4)
    for where, timing in whole.encode.items():
        assert small.encode[where].image_s == pytest.approx(timing.image_s / 5)
    assert small.prefill == whole.prefill


def test_a_profile_that_knows_no_tiles_refuses_other_sizes():
    with pytest.raises(ImageSizeError, match="for images of 96 px only, not 448"):
        for_images(find_profile("tiny"), 448)
