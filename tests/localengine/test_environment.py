"""What is said where vLLM cannot be installed; installing it is for `make test-vllm`."""

import platform
import shutil
import sys
from collections import namedtuple

import pytest

from localengine.environment import EngineMissing, vllm_python, vllm_version

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    """A machine without vLLM."""
    monkeypatch.setenv("TERCET_CACHE", str(tmp_path))


def test_the_version_is_the_one_that_the_lock_file_pins():
    assert vllm_version() == "0.32.0"


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("linux", "aarch64")])
def test_other_machines_are_told_what_to_do_instead(monkeypatch, tmp_path, system, machine):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(EngineMissing, match=r"Linux on x86-64 alone; name servers .* with --engines"):
        vllm_python(print)
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]


def test_a_python_without_wheels_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "version_info", namedtuple("V", "major minor")(3, 14))
    with pytest.raises(EngineMissing, match=r"needs a Python from 3\.11 to 3\.13"):
        vllm_python(print)


def test_a_full_disk_is_told_before_anything_is_fetched(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 2**30))
    said = []
    with pytest.raises(EngineMissing, match=r"needs 9 GiB free in .*, which has 1\.0; point TERCET_CACHE"):
        vllm_python(said.append)
    assert not said
