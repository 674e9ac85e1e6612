"""The blob store: bytes of media, embeddings and KV caches by handle, verified on every read.

Small blobs travel inside their handle; others lie in files that the processes of a host share (see
`blob_files`), and other hosts pull them by HTTP (see `blob_http` and `blob_pull`).
"""

import base64
import binascii
import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from stages.blob_files import REFERENCE, BlobFiles, hash_owner
from stages.engines import BlobUnavailable, StageError
from stages.types import BlobHandle

if TYPE_CHECKING:
    from typing_extensions import Buffer

Pull = Callable[[BlobHandle], memoryview]
"""Fetches a blob from another host; raises BlobUnavailable. The store verifies the checksum."""

MAX_INLINE_BYTES = 256 * 1024
QUOTA_BYTES = 2_000_000_000
_INLINE = "inline:"
_URI = re.compile(rf"shm://([^/]+)/({REFERENCE})")


class BlobStoreFull(StageError):  # named like its siblings in `engines`
    """A put would exceed the store's quota or its file system; worth trying again after releases."""


class BlobStore(Protocol):
    """Where a stage leaves bytes for the next one. Every method may be called from any thread."""

    def put(self, data: "Buffer", *, owner: str, ttl_s: float) -> BlobHandle:
        """Store C-contiguous bytes and give `owner`, any string, a reference to them.

        Raises:
            BlobStoreFull: There is no room.
            ValueError: `ttl_s` is not in (0, 1e9).
        """

    def get(self, handle: BlobHandle) -> memoryview | bytes:
        """Return the bytes, verified against size and sha256; they stay valid after any release.

        Raises:
            BlobUnavailable: Missing, short, corrupt, unauthorised or unreachable.
        """

    def retain(self, handle: BlobHandle, owner: str) -> BlobHandle:
        """Give another owner a reference of its own, valid for `handle.ttl_s` from now.

        The new reference is the *returned* handle; the one passed in still ends with its own owner.

        Raises:
            BlobUnavailable: The reference is gone, or is on another host.
        """

    def release(self, owner: str) -> None:
        """Drop every reference that `owner` holds in this store. Unknown owners hold none.

        Local only: a reader on another host keeps no copy, and what the owner holds in another
        host's store is released there (`blob_pull.release_remote`) or swept.
        """

    def sweep(self, now_unix_s: float) -> int:
        """Drop the references whose time to live has passed; return their number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobSettings:
    """What the processes of one host agree on.

    Attributes:
        dir: Private directory of this stack on this host, created with mode 0700.
        store_id: Name of this host's store in handles; empty to keep a random one in `dir`.
        inline_bytes: Blobs up to this size travel in their handle; 0 to 262144, 0 for none.
        quota_bytes: Bytes that `dir` may hold. Other processes' puts are noticed within about a
            second, so the total may pass it by what they write in that time.
        token: Bearer token of the stack's blob servers; empty if other hosts are not read.
        public_url: Where other hosts reach this host's blob server, without a final slash.
    """

    dir: Path
    store_id: str = ""
    inline_bytes: int = 0
    quota_bytes: int = QUOTA_BYTES
    token: str = field(default="", repr=False)
    public_url: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.inline_bytes <= MAX_INLINE_BYTES:
            raise ValueError(f"inline_bytes must be 0 to {MAX_INLINE_BYTES}, not {self.inline_bytes}")
        if "/" in self.store_id:
            raise ValueError(f"store_id must not contain a slash: {self.store_id!r}")
        if not (self.token.isascii() and self.token.isprintable()):
            raise ValueError("token must be printable ASCII")


def default_dir(stack: str) -> Path:
    """Return where the blobs of a stack go: memory if the host has /dev/shm, else the temp directory."""
    shm = Path("/dev/shm")  # noqa: S108  # the store checks that the directory is its user's own
    root = shm if shm.is_dir() and os.access(shm, os.W_OK) else Path(tempfile.gettempdir())
    return root / f"tercet-{os.geteuid()}-{stack}"


def open_store(settings: BlobSettings) -> BlobStore:
    """Open this host's store, with pulls from other hosts if there is a token.

    Raises:
        PermissionError: The directory belongs to another user.
    """
    if not settings.token:
        return SharedMemoryStore(settings, pull=None)
    from stages.blob_pull import HttpPull  # here, so that one host alone loads no HTTP

    return SharedMemoryStore(settings, pull=HttpPull(settings.token))


class SharedMemoryStore:
    """`BlobStore` in a directory that all processes of a host open at once."""

    def __init__(self, settings: BlobSettings, pull: Pull | None) -> None:
        self._files = BlobFiles(settings.dir, settings.quota_bytes)
        self._settings = settings
        self._store_id = settings.store_id or self._files.kept_id()
        self._pull = pull

    def put(self, data: "Buffer", *, owner: str, ttl_s: float) -> BlobHandle:  # noqa: D102
        view = memoryview(data)
        view = view.cast("B") if view.nbytes else memoryview(b"")
        if view.nbytes <= self._settings.inline_bytes:
            return inlined(view, ttl_s)
        sha256 = hashlib.sha256(view).hexdigest()
        try:
            reference = self._files.create(view, owner, ttl_s)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise BlobStoreFull(f"no room for {view.nbytes} bytes: {error}") from error
            raise
        return self._handle(reference, sha256, view.nbytes, ttl_s)

    def get(self, handle: BlobHandle) -> memoryview | bytes:  # noqa: D102
        if handle.uri.startswith(_INLINE):
            data: memoryview | bytes = _inlined(handle)
        else:
            store_id, reference = _address(handle)
            data = self._local(handle, reference) if store_id == self._store_id else self._remote(handle)
        if len(data) != handle.size_bytes:
            raise BlobUnavailable(_shown(handle), f"has {len(data)} bytes instead of {handle.size_bytes}")
        if hashlib.sha256(data).hexdigest() != handle.sha256:
            raise BlobUnavailable(_shown(handle), "checksum mismatch")
        return data

    def retain(self, handle: BlobHandle, owner: str) -> BlobHandle:  # noqa: D102
        if handle.uri.startswith(_INLINE):
            return handle
        store_id, reference = _address(handle)
        if store_id != self._store_id:
            raise BlobUnavailable(handle.uri, "cannot be retained from another host")
        try:
            further = self._files.link(reference, owner, handle.ttl_s)
        except FileNotFoundError:
            raise BlobUnavailable(handle.uri, "missing") from None
        return self._handle(further, handle.sha256, handle.size_bytes, handle.ttl_s)

    def release(self, owner: str) -> None:  # noqa: D102
        self._files.release(hash_owner(owner))

    def sweep(self, now_unix_s: float) -> int:  # noqa: D102
        return self._files.sweep(now_unix_s)

    def _local(self, handle: BlobHandle, reference: str) -> memoryview | bytes:
        try:
            return self._files.read(reference)
        except OSError as error:
            why = "missing" if error.errno == errno.ENOENT else str(error.strerror)
            raise BlobUnavailable(handle.uri, why) from None

    def _remote(self, handle: BlobHandle) -> memoryview:
        if self._pull is None or not handle.pull_url:
            raise BlobUnavailable(handle.uri, "is on another host that nobody can ask")
        if handle.size_bytes > self._settings.quota_bytes:
            raise BlobUnavailable(handle.uri, f"claims {handle.size_bytes} bytes, more than a store may hold")
        return self._pull(handle)

    def _handle(self, reference: str, sha256: str, size_bytes: int, ttl_s: float) -> BlobHandle:
        public = self._settings.public_url
        return BlobHandle(
            uri=f"shm://{self._store_id}/{reference}",
            sha256=sha256,
            size_bytes=size_bytes,
            ttl_s=ttl_s,
            pull_url=f"{public}/blobs/{reference}" if public else "",
        )


def inlined(data: "Buffer", ttl_s: float) -> BlobHandle:
    """Return a handle that holds its bytes itself; at most `MAX_INLINE_BYTES` are meant to travel so."""
    view = memoryview(data)
    uri = _INLINE + base64.b64encode(view).decode()
    return BlobHandle(uri=uri, sha256=hashlib.sha256(view).hexdigest(), size_bytes=view.nbytes, ttl_s=ttl_s)


def _inlined(handle: BlobHandle) -> bytes:
    try:
        return base64.b64decode(handle.uri[len(_INLINE) :], validate=True)
    except (binascii.Error, ValueError):
        raise BlobUnavailable(_shown(handle), "broken base64") from None


def _address(handle: BlobHandle) -> tuple[str, str]:
    """Split a uri into the store's id and the reference in it."""
    match = _URI.fullmatch(handle.uri)
    if match is None:
        raise BlobUnavailable(_shown(handle), "is no address of a blob")
    return match[1], match[2]


def _shown(handle: BlobHandle) -> str:
    """Return the uri, cut so that inlined bytes do not fill logs."""
    return handle.uri if len(handle.uri) <= 200 else handle.uri[:40] + "…"
