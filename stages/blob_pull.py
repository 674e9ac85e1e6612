"""Reading other hosts' blobs: ranged HTTP requests to their `blob_http.BlobServer`.

A pull keeps nothing behind: what it fetched belongs to the caller alone.
"""

import http.client
import re
import time
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from stages.blob_files import hash_owner
from stages.engines import BlobUnavailable
from stages.types import BlobHandle

_RECV_BYTES = 1 << 16
_PULL_URL = re.compile(r"https?://[^/]+/[!-~]*")
_REFUSALS = {401: "unauthorised", 404: "missing", 416: "shorter than its handle says"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PullLimits:
    """How long a pull tries.

    Attributes:
        range_bytes: Bytes asked for by one request.
        attempts: Requests in a row that may bring no byte before the pull gives up.
        backoff_s: Pause after the first such request; doubles with each, up to 1 s.
        silence_s: Longest wait for the next bytes of a connection.
        total_s: Longest time of a pull; one `silence_s` may come on top.
    """

    range_bytes: int = 8 << 20
    attempts: int = 4
    backoff_s: float = 0.05
    silence_s: float = 2.0
    total_s: float = 60.0


@dataclass(frozen=True, slots=True)
class HttpPull:
    """Fetches blobs from other hosts' `BlobServer`s; a `blobs.Pull`. Any thread."""

    token: str
    limits: PullLimits = PullLimits()

    def __call__(self, handle: BlobHandle) -> memoryview:
        """Return the bytes, of the handle's size but not verified, resuming where connections drop.

        Raises:
            BlobUnavailable: Missing, of another size, unauthorised, or not within the limits.
        """
        if not _PULL_URL.match(handle.pull_url):
            raise BlobUnavailable(handle.uri, f"cannot be pulled from {handle.pull_url[:200]!r}")
        try:
            with closing(_Pulling(handle, self.token, self.limits)) as pull:
                return pull.run()
        except ValueError as error:  # of a host or a port that cannot be
            raise BlobUnavailable(handle.uri, f"cannot be pulled: {error}") from error


def server_of(pull_url: str) -> str:
    """Return the `BlobSettings.public_url` of the host that serves a handle."""
    return pull_url.rpartition("/blobs/")[0]


def release_remote(pull_url: str, owner: str, token: str, timeout_s: float = 2.0) -> None:
    """Drop an owner's references in the store that serves `pull_url`, any of its handles' address.

    Raises:
        OSError: The server cannot be reached or refuses; the sweep of its host will do it.
    """
    base = urlsplit(server_of(pull_url))
    with closing(_connect(base, timeout_s)) as connection:
        path = f"{base.path}/owners/{hash_owner(owner)}"
        try:
            connection.request("DELETE", path, headers=_bearer(token))
            status = connection.getresponse().status
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
    if status != 204:
        raise ConnectionError(f"DELETE {path} at {base.netloc} was answered {status}")


class _Pulling:
    """One pull: a connection, a buffer, and how far it is filled."""

    def __init__(self, handle: BlobHandle, token: str, limits: PullLimits) -> None:
        self._handle = handle
        self._url = urlsplit(handle.pull_url)
        self._headers = _bearer(token)
        self._limits = limits
        self._connection = _connect(self._url, limits.silence_s)
        self._buffer = memoryview(bytearray(handle.size_bytes))
        self._done = 0
        self._deadline_s = time.monotonic() + limits.total_s

    def close(self) -> None:
        self._connection.close()

    def run(self) -> memoryview:
        fruitless = 0
        while self._done < len(self._buffer):
            before = self._done
            try:
                self._pull_range()
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                fruitless = fruitless + 1 if self._done == before else 1
                self._pause(fruitless, error)
        return self._buffer.toreadonly()

    def _pause(self, fruitless: int, error: Exception) -> None:
        pause_s = min(1.0, self._limits.backoff_s * 2 ** (fruitless - 1))
        late = time.monotonic() + pause_s > self._deadline_s
        if late or fruitless >= self._limits.attempts:
            raise self._unavailable(f"{type(error).__name__}: {error} after {self._done} bytes") from error
        time.sleep(pause_s)

    def _pull_range(self) -> None:
        last = min(self._done + self._limits.range_bytes, len(self._buffer)) - 1
        wanted = f"bytes {self._done}-{last}/{len(self._buffer)}"
        self._connection.request(
            "GET", self._url.path, headers=self._headers | {"Range": f"bytes={self._done}-{last}"}
        )
        response = self._connection.getresponse()
        self._check(response, wanted)
        while self._done <= last:
            if time.monotonic() > self._deadline_s:
                raise self._unavailable(f"{self._done} bytes in {self._limits.total_s} s")
            data = response.read1(min(_RECV_BYTES, last + 1 - self._done))
            if not data:
                raise ConnectionError("connection closed within a range")
            self._buffer[self._done : self._done + len(data)] = data
            self._done += len(data)
        response.read()  # `read1` leaves a response open at its end, and its connection unusable

    def _check(self, response: http.client.HTTPResponse, wanted: str) -> None:
        """Let the wanted range pass; others are final, but for a server in trouble."""
        if response.status >= 500:
            raise ConnectionError(f"answered {response.status}")
        if response.status != 206:
            raise self._unavailable(_REFUSALS.get(response.status, f"answered {response.status}"))
        got = response.getheader("Content-Range", "")
        if got != wanted:
            raise self._unavailable(f"sends {got!r} instead of {wanted!r}")

    def _unavailable(self, why: str) -> BlobUnavailable:
        return BlobUnavailable(self._handle.uri, f"pull from {self._url.netloc}: {why}")


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _connect(url: SplitResult, timeout_s: float) -> http.client.HTTPConnection:
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    return kind(url.hostname or "", url.port, timeout=timeout_s)
