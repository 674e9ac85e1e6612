"""A per-user cache of directories that are costly to build: built once, complete or absent."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path


def cache_root() -> Path:
    """Return where caches go: $TERCET_CACHE, else $XDG_CACHE_HOME/tercet, else ~/.cache/tercet."""
    if chosen := os.environ.get("TERCET_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tercet"


def cached_directory(name: str, build: Callable[[Path], None]) -> Path:
    """Return the directory `name` of the cache; `build` fills it if it is absent.

    Processes that ask at the same time wait for the one that builds. The directory appears under
    its name only when `build` has returned and the bytes are on disk, so what a crash leaves is
    never read; the next builder clears it away.

    Raises:
        OSError: The cache cannot be written.
    """
    root = cache_root()
    final = root / name
    if final.is_dir():
        return final
    root.mkdir(parents=True, exist_ok=True)
    with (root / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not final.is_dir():
            _build(root / f".{name}.partial", build).rename(final)
    return final


def _build(partial: Path, build: Callable[[Path], None]) -> Path:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    build(partial)
    os.sync()
    return partial
