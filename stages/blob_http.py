"""Serving a host's blobs to other hosts, token-authenticated.

GET, HEAD  /blobs/<hash of owner>/<name>   with Range; 200, 206, 401, 404, 416
DELETE     /owners/<hash of owner>         drops the owner's references; 204, 401, 404
"""

import asyncio
import hmac
import io
import os
import re
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from stages.blob_files import BlobFiles

_CHUNK_BYTES = 1 << 18
_RANGE = re.compile(r"bytes=(?=.*\d)(\d{0,18})-(\d{0,18})", re.ASCII)


class BlobServer:
    """Serves the references of one store directory, and nothing else, from a thread of its own."""

    def __init__(self, store_dir: Path, token: str, host: str = "127.0.0.1", port: int = 0) -> None:
        """Bind to `host`, an address of this machine; port 0 takes a free one.

        Raises:
            ValueError: The token is empty.
            OSError: The address cannot be bound.
        """
        if not token:
            raise ValueError("a blob server needs a token")
        self._files = BlobFiles(store_dir, quota_bytes=0)
        self._expected = f"Bearer {token}".encode()
        self._socket = _listen(host, port)
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._app(),
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,
                timeout_graceful_shutdown=1,
            )
        )
        self._thread = threading.Thread(target=self._serve, name="blob-server", daemon=True)

    @property
    def port(self) -> int:
        """The port bound."""
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Begin to serve. Connections made since the constructor have been waiting."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving; transfers under way get a second, then their connections are closed."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)
        self._socket.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])

    def _app(self) -> Starlette:
        app = Starlette(
            routes=[
                Route("/blobs/{owner}/{name}", self._blob, methods=["GET"]),
                Route("/owners/{owner}", self._release, methods=["DELETE"]),
            ]
        )
        app.router.redirect_slashes = False  # a redirect would name whatever host the caller named
        return app

    def _authorised(self, request: Request) -> bool:
        given = request.headers.get("authorization", "").encode("latin-1")
        return hmac.compare_digest(given, self._expected)

    async def _blob(self, request: Request) -> Response:
        if not self._authorised(request):
            return Response(status_code=401)
        try:
            file = _open(self._files.path("{owner}/{name}".format(**request.path_params)))
        except (ValueError, OSError):
            return Response(status_code=404)
        size = os.fstat(file.fileno()).st_size
        ranged = request.headers.get("range", "") if request.method == "GET" else ""
        status, span = _span(ranged, size)
        headers = {"Accept-Ranges": "bytes", "Content-Length": str(len(span))}
        if status != 200:
            headers["Content-Range"] = f"bytes {f'{span.start}-{span.stop - 1}' if span else '*'}/{size}"
        if request.method == "HEAD" or status == 416:
            return Response(status_code=status, headers=headers)
        return StreamingResponse(_chunks(file, span), status, headers, "application/octet-stream")

    def _release(self, request: Request) -> Response:
        if not self._authorised(request):
            return Response(status_code=401)
        try:
            self._files.release(request.path_params["owner"])
        except ValueError:
            return Response(status_code=404)
        return Response(status_code=204)


def _open(path: str) -> io.FileIO:
    return io.FileIO(path, opener=lambda path, _: os.open(path, os.O_RDONLY | os.O_NOFOLLOW))


def _span(header: str, size: int) -> tuple[int, range]:
    """Return the status and the offsets that a Range header asks for.

    More than one range, and what is no range of bytes, is ignored as RFC 9110, 14.2 allows.
    """
    match = _RANGE.fullmatch(header)
    if match is None or (match[1] and match[2] and int(match[1]) > int(match[2])):
        return 200, range(size)
    if match[1]:
        span = range(int(match[1]), min(size, int(match[2] or size) + 1))
    else:
        span = range(max(0, size - int(match[2])), size)
    return (206, span) if span else (416, range(0))


async def _chunks(file: io.FileIO, span: range) -> AsyncIterator[bytes]:
    """Read in the loop's own thread: the files are in memory, where another thread costs more."""
    with file:
        for offset in span[::_CHUNK_BYTES]:
            yield os.pread(file.fileno(), min(_CHUNK_BYTES, span.stop - offset), offset)
            await asyncio.sleep(0)  # a send to a client that has gone does not wait, so it must be heard


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=128)
