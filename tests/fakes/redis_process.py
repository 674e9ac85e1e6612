"""A real redis-server of a test's own."""

import subprocess
import tempfile
import time
from pathlib import Path

import redis

from cli.redis_server import find_redis_server, redis_command


class RedisProcess:
    """Started on a private socket, gone with the context. `restart` keeps the data."""

    def __init__(self, folder: Path) -> None:
        self._data = folder
        # Unix socket paths are limited to some 100 bytes; pytest's folders are longer.
        self._runtime = tempfile.TemporaryDirectory(prefix="tercet-test-")
        self._socket = Path(self._runtime.name) / "redis.sock"
        self.url = f"unix://{self._socket}"
        self.broker_url = f"redis+socket://{self._socket}"

    def __enter__(self) -> "RedisProcess":
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._runtime.cleanup()

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, decode_responses=True)

    def restart(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._start()

    def _start(self) -> None:
        command = redis_command(find_redis_server(), self._socket, self._data)
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end_s = time.monotonic() + 10.0
        while True:
            try:
                self.client().ping()
                return
            except redis.RedisError:
                assert time.monotonic() < end_s, "redis-server did not start"
                time.sleep(0.02)
