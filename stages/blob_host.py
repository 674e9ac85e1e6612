"""One host's blob store: what its processes are told of it, and the process that keeps it.

A keeper sweeps the store, and serves it to other hosts if it is told to listen. A host needs one; several
do no harm, so nobody has to be elected.
"""

import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from stages.blobs import QUOTA_BYTES, BlobSettings, BlobStore

if TYPE_CHECKING:
    from stages.blob_http import BlobServer

log = logging.getLogger(__name__)

SWEEP_S = 10.0

_WILDCARDS = ("", "0.0.0.0", "::")  # noqa: S104  # to refuse them as addresses that others could use


class BlobConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What one process is told of its host's store; see `stages.blobs.BlobSettings`.

    Attributes:
        directory: The same for every process of the host and stack, and for no other.
        token: The same on every host of the stack; empty if there is one host.
        listen: `host:port` on which this process serves its host's blobs, `[host]:port` for IPv6;
            empty for none. The other processes of the host need `public_url` instead.
        public_url: Where other hosts reach this host's blobs, if not `http://<listen>`.
    """

    directory: str
    store_id: str = ""
    inline_bytes: int = 8_192
    quota_bytes: int = QUOTA_BYTES
    token: str = ""
    listen: str = ""
    public_url: str = ""

    def settings(self) -> BlobSettings:
        """Return what the store takes.

        Raises:
            ValueError: `listen` is no address, or none that others could use and there is no `public_url`.
        """
        return BlobSettings(
            dir=Path(self.directory),
            store_id=self.store_id,
            inline_bytes=self.inline_bytes,
            quota_bytes=self.quota_bytes,
            token=self.token,
            public_url=self.public_url or self._listen_url(),
        )

    def address(self) -> tuple[str, int]:
        """Return the host and port of `listen`.

        Raises:
            ValueError: It is no address.
        """
        host, _, port = self.listen.rpartition(":")
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
            raise ValueError(f"blobs.listen must be host:port, not {self.listen!r}")
        return host.removeprefix("[").removesuffix("]"), int(port)

    def _listen_url(self) -> str | None:
        if not self.listen:
            return None
        if self.address()[0] in _WILDCARDS:
            raise ValueError(f"blobs.public_url is needed: other hosts cannot reach {self.listen!r}")
        return f"http://{self.listen}"


class BlobKeeper:
    """Sweeps a store, and serves it to other hosts if `config.listen` says so."""

    def __init__(self, store: BlobStore, config: BlobConfig) -> None:
        """Bind the address, if there is one.

        Raises:
            ValueError: `config` has an address but no token, or one that is none.
            OSError: The address cannot be bound.
        """
        self._store = store
        self._server = _server(config) if config.listen else None
        self._stop = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep, name="blob-sweeper", daemon=True)

    def start(self) -> None:
        """Begin, in threads that end with the process."""
        self._sweeper.start()
        if self._server:
            self._server.start()

    def stop(self) -> None:
        """Serve no longer; transfers under way get a second."""
        self._stop.set()
        if self._server:
            self._server.stop()

    def _sweep(self) -> None:
        while not self._stop.wait(SWEEP_S):
            try:
                swept = self._store.sweep(time.time())
            except OSError as error:
                log.warning("blob sweep failed, trying again: %s", error)
                continue
            if swept:
                log.info("swept blobs past their time", extra={"blobs": swept})


def _server(config: BlobConfig) -> "BlobServer":
    from stages.blob_http import BlobServer  # here, so that a host alone loads no HTTP server

    host, port = config.address()
    return BlobServer(Path(config.directory), config.token, host, port)
