"""The publisher: takes edits of policies from the cluster to where running processes look."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from orchestrator.control_policy import Hardware, refusals
from orchestrator.kube_names import POLICY_FILE
from orchestrator.policy import load_policy
from orchestrator.policy_copy import lay
from orchestrator.ports import (
    ClusterUnavailable,
    LedgerUnavailable,
    PolicyEdition,
    PolicySource,
    PolicyStore,
    PolicyVersion,
    PublishResult,
)
from orchestrator.yaml_file import FileError

log = logging.getLogger(__name__)

PUBLISH_S = 2.0
"""Between two looks at the policies."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a policy cannot be published."""

    text: str


class Publisher:
    """Publishes some policies of one cluster. It remembers what it has checked, and nothing that it has done.

    Args:
        source: Where policies are edited.
        store: Where they are published.
        names: Of the policies in the source.
        hardware: What services may run on.
    """

    def __init__(
        self, source: PolicySource, store: PolicyStore, names: Sequence[str], hardware: Hardware
    ) -> None:
        self._source = source
        self._store = store
        self._names = names
        self._hardware = hardware
        self._checked: dict[str, tuple[PolicyVersion, str | Problem]] = {}
        self._problems: dict[str, str | None] = {}

    async def run(self) -> None:
        """Publish every edit until cancelled; what cannot be done now is done when it can."""
        while True:
            await self.step()
            await asyncio.sleep(PUBLISH_S)

    async def step(self) -> None:
        """Publish what is there, once; the same again changes nothing, and makes good what Redis has lost."""
        for name in self._names:
            problem = await self._publish(name)
            if problem and problem != self._problems.get(name):
                log.error("policy %s not published, the last one stays in force: %s", name, problem)
            self._problems[name] = problem

    async def _publish(self, name: str) -> str | None:
        """Return why a policy is not published, None if it is."""
        try:
            edition = await asyncio.to_thread(self._source.read, name)
            if edition is None:
                return "there is none of that name"
            service = self._service_of(name, edition)
            if isinstance(service, Problem):
                return service.text
            result = await self._store.publish(service, edition)
        except (ClusterUnavailable, LedgerUnavailable) as error:
            return str(error)
        if result is PublishResult.TAKEN:
            log.info("policy published", extra={"service": service, "version": edition.version})
        older = f"{service} has a newer one than {edition.version}"
        return older if result is PublishResult.OLDER else None

    def _service_of(self, name: str, edition: PolicyEdition) -> str | Problem:
        """Return the service that a policy is of, or what is wrong with it; each edition is checked once."""
        version, found = self._checked.get(name, (None, Problem("unchecked")))
        if version != edition.version:
            found = self._check(edition)
            self._checked[name] = edition.version, found
        return found

    def _check(self, edition: PolicyEdition) -> str | Problem:
        with TemporaryDirectory(prefix="tercet-publisher-") as folder:
            path = Path(folder, POLICY_FILE)
            lay(edition, path)
            try:
                return load_policy(path, lambda policy: refusals(policy, path, self._hardware)).service
            except FileError as error:
                return Problem(str(error).replace(f"{folder}/", ""))
