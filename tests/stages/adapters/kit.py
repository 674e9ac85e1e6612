"""Work for adapters."""

from stages.blobs import BlobStore
from stages.types import MediaItem, Modality
from tests.stages.emulator.kit import png


def kept_image(blobs: BlobStore, png: bytes = png()) -> MediaItem:  # the same bytes each time
    """Return an image that the store has, of 16 tokens."""
    return MediaItem(
        modality=Modality.IMAGE,
        blob=blobs.put(png, owner="r", ttl_s=60.0),
        content_hash="c0ffee",
        width_px=112,
        height_px=112,
        frames=1,
        tokens=16,
    )
