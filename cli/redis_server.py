"""Finding a redis-server and telling it how to run."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

MINIMUM = (6, 2)
"""The scripts of the ledger and kombu's transport are tested from this version on."""
INSTALL = "install one with your package manager (apt-get install redis-server, brew install redis)"

_VERSION = re.compile(r"\bv=(\d+)\.(\d+)")
_ANSWER_S = 10.0
_MEMORY_BYTES = 512 * 2**20
"""Redis holds handles and streams on their way, a few megabytes. What needs more than this is a fault, and
is to meet refusals rather than take the machine's last memory."""


class NoRedisServer(RuntimeError):
    """There is no redis-server on this machine that is new enough."""


def find_redis_server() -> str:
    """Return the path of a redis-server: one on PATH, else the one that `make` put beside this Python.

    Raises:
        NoRedisServer: Says which version is needed and how to install one.
    """
    on_path = shutil.which("redis-server")
    beside = str(Path(sys.prefix, "bin", "redis-server"))
    for server in (on_path, beside):
        if server and (version_of(server) or (0, 0)) >= MINIMUM:
            return server
    found = f"{on_path} is older or does not run" if on_path else "there is none on PATH"
    raise NoRedisServer(f"redis-server {MINIMUM[0]}.{MINIMUM[1]} or newer is needed, and {found}: {INSTALL}")


def version_of(server: str) -> tuple[int, int] | None:
    """Return the major and minor version that a redis-server names, None if it names none."""
    try:
        done = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=_ANSWER_S)
    except (OSError, subprocess.SubprocessError):
        return None
    named = _VERSION.search(done.stdout)
    return (int(named[1]), int(named[2])) if named else None


def redis_command(server: str, socket: Path, data: Path) -> list[str]:
    """Return the command line of a private server: a unix socket, no port, an append-only file."""
    settings = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "600",
        "dir": str(data),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory": str(_MEMORY_BYTES),
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "loglevel": "warning",
    }
    return [server, *(part for name, value in settings.items() for part in (f"--{name}", value))]
