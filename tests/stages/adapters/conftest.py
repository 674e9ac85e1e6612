"""What adapters are tested with."""

from pathlib import Path

import pytest

from stages.blobs import BlobSettings, BlobStore, open_store


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return open_store(BlobSettings(dir=tmp_path / "blobs"))
