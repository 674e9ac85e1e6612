"""Which redis-server `tercet up` takes."""

from pathlib import Path

import pytest

from cli.redis_server import NoRedisServer, find_redis_server, version_of


def executable(folder: Path, says: str) -> str:
    folder.mkdir()
    server = folder / "redis-server"
    server.write_text(f"#!/bin/sh\n{says}\n")
    server.chmod(0o755)
    return str(server)


def named(version: str) -> str:
    return f"echo 'Redis server v={version} sha=00000000:0 malloc=libc bits=64 build=f00'"


@pytest.mark.parametrize(
    ("says", "version"),
    [
        (named("7.0.15"), (7, 0)),
        (named("6.0.16"), (6, 0)),
        ("echo 'Valkey server v=8.1.0 sha=00000000:0'", (8, 1)),
        ("echo hello", None),
        ("exit 3", None),
    ],
)
def test_a_server_is_asked_for_its_version(
    tmp_path: Path, says: str, version: tuple[int, int] | None
) -> None:
    assert version_of(executable(tmp_path / "bin", says)) == version


def test_a_server_that_cannot_run_has_no_version(tmp_path: Path) -> None:
    assert version_of(str(tmp_path / "none")) is None


@pytest.mark.parametrize(
    ("on_path", "beside", "taken"),
    [
        pytest.param("7.2.4", "6.2.14", "path", id="path-first"),
        pytest.param("10.0.0", None, "path", id="two-digits-are-a-number"),
        pytest.param("6.2.0", "7.2.4", "path", id="just-new-enough"),
        pytest.param("6.0.16", "6.2.14", "beside", id="path-too-old"),
        pytest.param(None, "6.2.14", "beside", id="none-on-path"),
        pytest.param("6.0.16", None, None, id="too-old-and-no-other"),
        pytest.param("6.0.16", "5.0.3", None, id="both-too-old"),
        pytest.param(None, None, None, id="none"),
    ],
)
def test_the_first_that_is_new_enough_is_taken(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    on_path: str | None,
    beside: str | None,
    taken: str | None,
) -> None:
    """The one on PATH, else the one beside this Python, else an error that names the version."""
    folders = {"path": tmp_path / "path", "beside": tmp_path / "bin"}
    for folder, version in zip(folders.values(), (on_path, beside), strict=True):
        if version:
            executable(folder, named(version))
    monkeypatch.setenv("PATH", str(folders["path"]))
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    if taken:
        assert find_redis_server() == str(folders[taken] / "redis-server")
    else:
        with pytest.raises(NoRedisServer, match=r"redis-server 6\.2 or newer is needed"):
            find_redis_server()
