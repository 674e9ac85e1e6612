"""Reference-counted files in a directory that several processes use at once.

**A reference is a hard link.** `<root>/owners/<hash of owner>/<expiry>-<random>` is one owner's
reference to one blob, and the inode's link count is the reference count: the kernel frees the bytes
with the last link, or later with the last open reader. There is no daemon, lock or counter that a
kill -9 could leave wrong, and releasing an owner is unlinking one directory. A blob has no address
but its references, so a release never has to ask whether somebody retains the blob meanwhile.

**Names.** Owners are strings that clients may have chosen: a hash of fixed length stands for them in
paths. A name starts with the time after which the sweep may drop the reference and ends in 128 random
bits, so it cannot be guessed. Equal content put twice is two blobs: sharing it would let a put race a
release, and whoever expects repeats links what it has kept.

**Atomicity.** A name is told to nobody before its last byte is written, so a put that dies leaves bytes
that no handle names; they go with the owner's release or the sweep. Blobs are never changed.
"""

import contextlib
import errno
import hashlib
import mmap
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

REFERENCE = r"[0-9a-f]{32}/[0-9a-f]{12}-[0-9a-f]{32}"
"""What a reference looks like: `<hash of owner>/<expiry>-<random>`, safe to join to a path."""

_OWNER_HASH = re.compile(r"[0-9a-f]{32}")
_REFERENCE = re.compile(REFERENCE)
# Below this a read with its copy is cheaper than mapping pages: measured 48 against 68 µs, checksum
# included, for 60 KB and 67 against 33 ms for 50 MB; they meet near 1 MiB.
_MMAP_FROM_BYTES = 1 << 20


class BlobFiles:
    """The references below one root. Any thread, any number of processes.

    Pathlib is kept out of the calls of every request: there it costs as much as the system call.
    """

    def __init__(self, root: Path, quota_bytes: int) -> None:
        """Open `root`, made with mode 0700 if it does not exist.

        Raises:
            PermissionError: It belongs to another user.
        """
        self.root = root.absolute()
        _make_private(self.root)
        self._owners = f"{self.root}/owners"
        self._usage = _Usage(self._owners, quota_bytes)

    def create(self, data: memoryview, owner: str, ttl_s: float) -> str:
        """Store bytes; return the owner's reference.

        Raises:
            OSError: With errno EDQUOT or ENOSPC if there is no room.
            ValueError: `ttl_s` is not in (0, 1e9).
        """
        self._usage.add(len(data))
        return self._refer(owner, ttl_s, lambda path: _write(path, data))

    def link(self, reference: str, owner: str, ttl_s: float) -> str:
        """Return a further reference, of another owner, to the same bytes.

        Raises:
            FileNotFoundError: The reference was dropped.
            ValueError: It never was one, or `ttl_s` is not in (0, 1e9).
        """
        source = self.path(reference)
        return self._refer(owner, ttl_s, lambda path: os.link(source, path))

    def read(self, reference: str) -> memoryview | bytes:
        """Return the bytes as they are; large ones are mapped, and outlive the reference.

        Raises:
            OSError: FileNotFoundError above all.
            ValueError: It never was a reference.
        """
        fd = os.open(self.path(reference), os.O_RDONLY | os.O_NOFOLLOW)
        try:
            size = os.fstat(fd).st_size
            if size < _MMAP_FROM_BYTES:
                return os.read(fd, size)
            return memoryview(mmap.mmap(fd, size, prot=mmap.PROT_READ))
        finally:
            os.close(fd)

    def path(self, reference: str) -> str:
        """Return the file behind a reference.

        Raises:
            ValueError: It is none that a store could have made.
        """
        if not _REFERENCE.fullmatch(reference):
            raise ValueError(f"not a reference: {reference[:80]!r}")
        return f"{self._owners}/{reference}"

    def release(self, owner_hash: str) -> None:
        """Drop every reference of the owner with this `hash_owner`.

        Raises:
            ValueError: It is no such hash.
        """
        if not _OWNER_HASH.fullmatch(owner_hash):
            raise ValueError(f"not the hash of an owner: {owner_hash[:80]!r}")
        _unlink_if(f"{self._owners}/{owner_hash}", lambda _: True)

    def sweep(self, now_unix_s: float) -> int:
        """Drop references whose time to live has passed; return their number."""
        now = _expiry(now_unix_s)
        owners = [entry.path for entry in os.scandir(self._owners)]
        return sum(_unlink_if(owner, lambda name: name[:12] < now) for owner in owners)

    def kept_id(self) -> str:
        """Return the random id of this root. A symlink's text appears whole or not at all."""
        keeper = self.root / "store-id"
        with contextlib.suppress(FileExistsError):
            keeper.symlink_to(secrets.token_hex(8))
        return str(keeper.readlink())

    def _refer(self, owner: str, ttl_s: float, create: Callable[[str], None]) -> str:
        """Create a reference in the owner's directory, which a release may remove meanwhile."""
        if not 0 < ttl_s < 1e9:
            raise ValueError(f"ttl_s must be in (0, 1e9), not {ttl_s}")
        owner_dir = hash_owner(owner)
        reference = f"{owner_dir}/{_expiry(time.time() + ttl_s)}-{secrets.token_hex(16)}"
        for _ in range(8):
            with contextlib.suppress(FileNotFoundError):
                create(f"{self._owners}/{reference}")
                return reference
            with contextlib.suppress(FileExistsError):
                os.mkdir(f"{self._owners}/{owner_dir}", 0o700)  # noqa: PTH102  # see the class
        create(f"{self._owners}/{reference}")
        return reference


class _Usage:
    """Bytes below a root: a scan every second or so, and this process's own puts since.

    Releases and other processes show at the next scan. Scans take at most about 1 % of the time.
    """

    def __init__(self, owners: str, quota_bytes: int) -> None:
        self._owners = owners
        self._quota_bytes = quota_bytes
        self._lock = threading.Lock()
        self._bytes = 0
        self._scanned_s = -1e9
        self._scan_took_s = 0.0

    def add(self, size_bytes: int) -> None:
        with self._lock:
            self._scan_if_older_than(max(1.0, 100 * self._scan_took_s))
            if self._bytes + size_bytes > self._quota_bytes:
                self._scan_if_older_than(max(0.02, 5 * self._scan_took_s))
            if self._bytes + size_bytes > self._quota_bytes:
                raise OSError(
                    errno.EDQUOT, f"{self._bytes} of {self._quota_bytes} bytes in use", self._owners
                )
            self._bytes += size_bytes

    def _scan_if_older_than(self, age_s: float) -> None:
        start_s = time.monotonic()
        if start_s - self._scanned_s < age_s:
            return
        self._bytes = sum(_stored_bytes(entry.path) for entry in os.scandir(self._owners))
        self._scanned_s = time.monotonic()
        self._scan_took_s = self._scanned_s - start_s


def hash_owner(owner: str) -> str:
    """Return the name, 32 hex digits, that stands for an owner in paths and URLs."""
    return hashlib.blake2b(owner.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _unlink_if(owner_dir: str, doomed: Callable[[str], bool]) -> int:
    """Unlink the doomed references of one owner, and the directory if that leaves it empty."""
    try:
        fd = os.open(owner_dir, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return 0
    try:
        names = os.listdir(fd)  # noqa: PTH208
        return sum(_unlinked(name, fd) for name in names if doomed(name))
    finally:
        os.close(fd)
        _remove_if_empty(owner_dir)


def _unlinked(name: str, dir_fd: int) -> bool:
    try:
        os.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:  # another process was faster
        return False
    return True


def _remove_if_empty(path: str) -> None:
    try:
        os.rmdir(path)  # noqa: PTH106
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise


def _stored_bytes(owner_dir: str) -> int:
    try:
        facts = [entry.stat() for entry in os.scandir(owner_dir)]
    except FileNotFoundError:  # released during the scan; the next one is right
        return 0
    return sum(fact.st_size // max(1, fact.st_nlink) for fact in facts)


def _write(path: str, data: memoryview) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        written = 0
        while written < len(data):  # one write takes at most 2 GiB
            written += os.write(fd, data[written:])
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108
        raise
    finally:
        os.close(fd)


def _expiry(unix_s: float) -> str:
    """Return a time as 12 hex digits of milliseconds, so that names sort by it."""
    return f"{min(max(0, int(unix_s * 1000)), 0xFFFFFFFFFFFF):012x}"


def _make_private(root: Path) -> None:
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = root.lstat()
    # /dev/shm is writable to all: another user may have made the directory, or a link, first.
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid():
        raise PermissionError(f"{root} is not a directory of this user; remove it or name another one")
    root.chmod(0o700)
    (root / "owners").mkdir(mode=0o700, exist_ok=True)
