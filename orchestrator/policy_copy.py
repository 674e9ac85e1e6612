"""A process's own copy of its service's published policy, as files that it follows like any other."""

import asyncio
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from orchestrator.ports import LedgerUnavailable, PolicyEdition, PolicyStore, PolicyVersion

log = logging.getLogger(__name__)

FOLLOW_S = 1.0
"""Between two looks at what is published."""


class PolicyCopy:
    """The newest edition that this process has seen; until there is one, the file that it was started with.

    Args:
        seed: That file.

    Attributes:
        path: Where the policy is, whichever it is; the files that it names are beside it.
        version: Of the edition; None while there is none.
    """

    def __init__(self, seed: Path) -> None:
        self._folder = TemporaryDirectory(prefix="tercet-policy-")
        self._current = Path(self._folder.name, "current")
        self._current.symlink_to(seed.parent.absolute())
        self.path = self._current / seed.name
        self.version: PolicyVersion | None = None

    def take(self, edition: PolicyEdition) -> bool:
        """Put an edition in place, whole; False if it is no newer than what is there.

        Raises:
            OSError: It could not be written.
        """
        if self.version is not None and edition.version <= self.version:
            return False
        old, new = self._of(self.version), self._of(edition.version)
        lay(edition, new / self.path.name)
        link = Path(self._folder.name, "next")
        link.unlink(missing_ok=True)
        link.symlink_to(new)
        link.replace(self._current)
        self.version = edition.version
        shutil.rmtree(old, ignore_errors=True)
        return True

    def _of(self, version: PolicyVersion | None) -> Path:
        return Path(self._folder.name, "-".join(map(str, version or ("none",))))


def lay(edition: PolicyEdition, path: Path) -> None:
    """Write an edition's policy to a file, and what it names beside that.

    Raises:
        OSError: It could not be written.
    """
    path.parent.mkdir(exist_ok=True)
    for name, text in {**edition.beside, path.name: edition.text}.items():
        path.with_name(name).write_text(text)


async def follow(store: PolicyStore, copies: Mapping[str, PolicyCopy]) -> None:
    """Keep copies up with what is published, by service, for ever."""
    while True:
        await look(store, copies)
        await asyncio.sleep(FOLLOW_S)


async def look(store: PolicyStore, copies: Mapping[str, PolicyCopy]) -> None:
    """Bring copies up to what is published, by service; one that cannot be seen stays as it is."""
    for service, copy in copies.items():
        try:
            edition = await store.published(service)
            if edition and copy.take(edition):
                log.info("published policy copied", extra={"service": service, "version": edition.version})
        except (LedgerUnavailable, OSError, ValueError) as error:
            log.warning("published policy of %s cannot be had: %s", service, error)
