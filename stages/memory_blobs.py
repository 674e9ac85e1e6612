"""A blob store within one process, for generation without workers and for tests."""

import hashlib
import itertools
import threading
import time
from typing import TYPE_CHECKING

from stages.engines import BlobUnavailable
from stages.types import BlobHandle

if TYPE_CHECKING:
    from typing_extensions import Buffer


class MemoryBlobs:
    """`BlobStore` in a dict: every handle is one reference of one owner."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names = itertools.count()
        self._blobs: dict[str, tuple[str, float, bytes]] = {}

    def put(self, data: "Buffer", *, owner: str, ttl_s: float) -> BlobHandle:
        """See `BlobStore`."""
        return self._add(bytes(memoryview(data).cast("B")), owner, ttl_s)

    def get(self, handle: BlobHandle) -> memoryview | bytes:
        """See `BlobStore`."""
        with self._lock:
            found = self._blobs.get(handle.uri)
        if found is None:
            raise BlobUnavailable(handle.uri, "gone")
        if hashlib.sha256(found[2]).hexdigest() != handle.sha256:
            raise BlobUnavailable(handle.uri, "checksum differs")
        return found[2]

    def retain(self, handle: BlobHandle, owner: str) -> BlobHandle:
        """See `BlobStore`."""
        return self._add(bytes(self.get(handle)), owner, handle.ttl_s)

    def release(self, owner: str) -> None:
        """See `BlobStore`."""
        with self._lock:
            for uri in [u for u, (held_by, _, _) in self._blobs.items() if held_by == owner]:
                del self._blobs[uri]

    def sweep(self, now_unix_s: float) -> int:
        """See `BlobStore`."""
        with self._lock:
            expired = [u for u, (_, until_s, _) in self._blobs.items() if until_s <= now_unix_s]
            for uri in expired:
                del self._blobs[uri]
        return len(expired)

    def _add(self, data: bytes, owner: str, ttl_s: float) -> BlobHandle:
        digest = hashlib.sha256(data).hexdigest()
        with self._lock:
            uri = f"shm://memory/{next(self._names)}"
            self._blobs[uri] = (owner, time.time() + ttl_s, data)
        return BlobHandle(uri=uri, sha256=digest, size_bytes=len(data), ttl_s=ttl_s)
