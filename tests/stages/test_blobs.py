"""The directory behind the shared-memory store, and what its settings refuse."""

import stat
from pathlib import Path

import pytest

from stages.blob_files import BlobFiles
from stages.blobs import BlobSettings, default_dir, open_store


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_its_user_can_read_a_store(tmp_path: Path) -> None:
    """Directories are 0700 and files 0600, and a directory that was open to others is closed."""
    root = tmp_path / "a" / "store"
    store = open_store(BlobSettings(dir=root))
    store.put(b"secret", owner="r", ttl_s=60)
    paths = [path for path in root.rglob("*") if not path.is_symlink()]
    assert {mode(path) for path in [root, *paths] if path.is_dir()} == {0o700}
    assert {mode(path) for path in paths if path.is_file()} == {0o600}
    root.chmod(0o777)
    open_store(BlobSettings(dir=root))
    assert mode(root) == 0o700


def test_a_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """Whoever may write beside the directory cannot divert it."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match="remove it"):
        open_store(BlobSettings(dir=tmp_path / "store"))


def test_processes_of_a_host_agree_on_its_id_and_hosts_do_not(tmp_path: Path) -> None:
    ids = [BlobFiles(tmp_path / name, 0).kept_id() for name in ("a", "a", "b")]
    assert ids[0] == ids[1] != ids[2]


def test_a_named_store_keeps_its_name(tmp_path: Path) -> None:
    store = open_store(BlobSettings(dir=tmp_path, store_id="node-7"))
    assert store.put(b"x", owner="r", ttl_s=60).uri.startswith("shm://node-7/")


@pytest.mark.parametrize(
    "wrong",
    [
        {"inline_bytes": -1},
        {"inline_bytes": 262_145},
        {"store_id": "a/b"},
        {"token": "ключ"},
        {"token": "a\nb"},
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BlobSettings(dir=tmp_path, **wrong)  # type: ignore[arg-type]


def test_the_token_is_not_shown(tmp_path: Path) -> None:
    assert "hidden" not in repr(BlobSettings(dir=tmp_path, token="hidden"))


def test_stacks_and_users_have_directories_of_their_own() -> None:
    assert default_dir("a") != default_dir("b")
    assert default_dir("a").parent.is_dir()
