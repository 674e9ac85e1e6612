"""A replica whose stage may change does what its file says, and ends when that is another."""

import signal
import threading
from pathlib import Path

import pytest

from stages.blob_host import BlobConfig
from stages.limits import EngineLimits
from stages.types import Stage
from workers.config import Roles, WorkerConfig
from workers.roles import as_told, watching

SLOTS = {Stage.PREFILL: 4, Stage.DECODE: 9}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "role"


def config(file: Path | None) -> WorkerConfig:
    return WorkerConfig(
        name="r",
        epoch="1",
        stage=Stage.PREFILL,
        model="m",
        redis_url="redis://nowhere",
        slots=4,
        blobs=BlobConfig(directory="/none"),
        limits=EngineLimits(max_batch=4, chunk_tokens=7),
        roles=Roles(file=str(file), slots=SLOTS) if file else None,
    )


def test_it_does_what_it_is_told_with_that_stage_s_slots(file: Path) -> None:
    file.write_text("decode\n")
    told = as_told(config(file))
    assert (told.stage, told.slots, told.limits) == (
        Stage.DECODE,
        9,
        EngineLimits(max_batch=9, chunk_tokens=7),
    )


@pytest.mark.parametrize("text", [None, "", "enc", "encode"])
def test_what_it_cannot_do_it_is_not_told(file: Path, text: str | None) -> None:
    """A file that is not there yet, or half written, changes nothing."""
    if text is not None:
        file.write_text(text)
    assert as_told(config(file)) == config(file)


def test_most_replicas_keep_their_stage() -> None:
    assert as_told(config(None)) == config(None)
    assert watching(config(None)) == []


def test_it_drains_when_it_is_told_another_stage(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked, sent = threading.Event(), []
    monkeypatch.setattr("workers.roles.time.sleep", lambda seconds: looked.set())
    monkeypatch.setattr("workers.roles.os.kill", lambda pid, number: sent.append(number))
    file.write_text("prefill")
    (watch,) = watching(config(file))
    thread = threading.Thread(target=watch)
    thread.start()
    assert looked.wait(5.0) and not sent
    file.write_text("decode")
    thread.join(5.0)
    assert sent == [signal.SIGTERM]
