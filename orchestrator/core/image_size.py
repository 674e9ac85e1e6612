"""What a model makes of images of another size than its profile is for."""

import math
from dataclasses import replace

from orchestrator.core.profile import EncodeTiming, ModelProfile


class ImageSizeError(ValueError):
    """A profile does not say what the model makes of images of that size."""


def tiles_of(px: int, tile_px: int, *, thumbnail: bool) -> int:
    """Return the tiles that a square image is cut into, one more for the whole of it if there are several.

    Args:
        px: Width and height, at least 1.
        tile_px: Those of a tile, at least 1.
        thumbnail: Whether the encoder also sees the whole image, in one more tile.
    """
    side = math.ceil(px / tile_px)
    return side * side + (1 if thumbnail and side > 1 else 0)


def for_images(profile: ModelProfile, px: int) -> ModelProfile:
    """Return the profile for images of `px` × `px` pixels, `px` at least 1.

    Tokens, bytes and the encoder's time go with the tiles, preparing an image with its pixels. Models that
    shrink an image rather than cut it into more tiles than they were made for are not modelled.

    Raises:
        ImageSizeError: The size is not the profile's own and the profile does not say how images are cut.
    """
    if px == profile.image_px:
        return profile
    if not profile.tile_px:
        raise ImageSizeError(
            f"the profile of {profile.model} is for images of {profile.image_px} px only, not {px}: "
            "it lacks image.tile_px, the size of a tile"
        )
    tiles = tiles_of(px, profile.tile_px, thumbnail=profile.thumbnail)

    def of_tiles(whole: int) -> int:
        return math.ceil(whole * tiles / profile.image_tiles)

    return replace(
        profile,
        image_px=px,
        image_tiles=tiles,
        image_tokens=of_tiles(profile.image_tokens),
        embedding_bytes=of_tiles(profile.embedding_bytes),
        image_kv_bytes=of_tiles(profile.image_kv_bytes),
        preprocess_s=profile.preprocess_s * (px / profile.image_px) ** 2,
        encode={
            where: EncodeTiming(image_s=timing.image_s * tiles / profile.image_tiles)
            for where, timing in profile.encode.items()
        },
    )
