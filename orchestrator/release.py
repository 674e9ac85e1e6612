"""Giving back what a request holds in blob stores, on this host and on others."""

import logging
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

from stages.blob_pull import release_remote, server_of
from stages.blobs import BlobSettings, BlobStore

log = logging.getLogger(__name__)

_THREADS = 4
_SHUN_S = 5.0
"""A host that did not answer is not asked again for so long: its sweep does what is missed."""


class BlobRelease:
    """Drops requests' references: here at once, on other hosts from threads of its own."""

    def __init__(self, store: BlobStore, settings: BlobSettings) -> None:
        """Release from `store`, opened with `settings`, and from other hosts with their token."""
        self._store = store
        self._token = settings.token
        self._own_server = settings.public_url or ""
        self._threads = ThreadPoolExecutor(_THREADS, "blob-release")
        self._shunned_until_s: dict[str, float] = {}

    def __call__(self, request_id: str, pull_urls: Collection[str]) -> None:
        """Drop every reference of a request on this host and on those that its handles named."""
        self._store.release(request_id)
        for server, url in {server_of(url): url for url in pull_urls}.items():
            if server != self._own_server:
                self._threads.submit(self._release_at, server, url, request_id)

    def close(self) -> None:
        """Finish what was begun, within a few seconds even if no other host answers."""
        self._threads.shutdown()

    def _release_at(self, server: str, pull_url: str, request_id: str) -> None:
        if time.monotonic() < self._shunned_until_s.get(server, 0.0):
            return
        try:
            release_remote(pull_url, request_id, self._token)
        except (OSError, ValueError) as error:  # ValueError of a port that cannot be
            self._shunned_until_s[server] = time.monotonic() + _SHUN_S
            log.warning("blobs at %s are left to its sweep for %.0f s: %s", server, _SHUN_S, error)
