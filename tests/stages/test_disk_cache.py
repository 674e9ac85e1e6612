"""The cache of what is costly to build: built once, complete or absent."""

import threading

import pytest

from stages.disk_cache import cache_root, cached_directory


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
