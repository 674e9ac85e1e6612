"""What a worker is told, and what it finds itself."""

import json

from workers.config import read_config

TOLD = {
    "name": "a",
    "epoch": "",
    "stage": "encode",
    "model": "tiny",
    "redis_url": "redis://redis:6379/0",
    "slots": 1,
    "blobs": {"directory": "/run/blobs"},
}


def test_every_boot_without_an_epoch_finds_one_of_its_own():
    """A restarted container is told the same as before."""
    boots = {read_config(json.dumps(TOLD)).replica_id for _ in range(20)}
    assert len(boots) == 20


def test_an_epoch_that_is_told_is_kept():
    assert read_config(json.dumps(TOLD | {"epoch": "e1"})).replica_id == "a.e1"
