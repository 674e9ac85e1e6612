"""Whether the engine server lives, what version it is, and how much it has to do."""

import logging
import re
import threading
import time
from typing import Any, ClassVar

import aiohttp
import msgspec

from stages.adapters.calls import Calls
from stages.adapters.load import ServerLoad, read_load
from stages.adapters.server import EngineServer
from stages.engines import StageError

log = logging.getLogger(__name__)

OLDEST = (0, 32)
"""The first vLLM of which all three stages were seen to work through here."""

ASK_S = 2.0
_POLL_S = 1.0
_START_POLL_S = 0.25


class ServerUnfit(RuntimeError):
    """The server never became healthy, or is one that cannot do its stage; the message says which."""


class Watch:
    """Asks a vLLM server again and again, on a thread of its own.

    Attributes:
        server: The one that is asked.
        health_path: Answered with 200 once the server can work.
        names: What the server is called.
        oldest: The first version that is taken.
        version_path: Where it says its version.
        version: As the server says it.
        facts: What else it says of itself there.
        load: At the last answer.
        gone: Why the server cannot be reached any more, None while it can.
    """

    health_path: ClassVar[str] = "/health"
    names: ClassVar[str] = "vLLM"
    oldest: ClassVar[tuple[int, ...]] = OLDEST
    version_path: ClassVar[str] = "/version"

    def __init__(self, server: EngineServer, calls: Calls) -> None:
        """Wait until the server is healthy, and see what it is.

        Raises:
            ServerUnfit: See there.
        """
        self.server = server
        self.calls = calls
        self._closed = threading.Event()
        self.gone: BaseException | None = None
        self.facts: dict[str, Any] = {}
        self._until_healthy()
        self.version = self.checked_version()
        self.load: ServerLoad = self.ask()
        self._answered_s = time.monotonic()
        threading.Thread(target=self._run, name="engine-watch", daemon=True).start()

    @property
    def silence_s(self) -> float:
        """Seconds since the server has answered, beyond the time between two questions."""
        return max(0.0, time.monotonic() - self._answered_s - 2 * _POLL_S)

    def close(self) -> None:
        """Ask no more."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(_POLL_S):
            try:
                self.load = self.ask()
                self._answered_s = time.monotonic()
            except aiohttp.ClientConnectorError as error:
                self.gone = error
                return
            except (aiohttp.ClientError, OSError) as error:
                log.warning("the engine at %s does not answer: %s", self.server.url, error or "time-out")

    def ask(self) -> ServerLoad:
        """Return the server's load now."""
        return read_load(self.calls.wait(self.calls.get("/metrics", ASK_S)).decode())

    def _until_healthy(self) -> None:
        give_up_s = time.monotonic() + self.server.start_s
        log.info("waiting for the engine at %s", self.server.url)
        while True:
            try:
                self.calls.wait(self.calls.get(self.health_path, ASK_S))
                return
            except (aiohttp.ClientError, OSError) as error:
                if time.monotonic() > give_up_s:
                    told = f"the engine at {self.server.url} was not healthy within {self.server.start_s:g} s"
                    raise ServerUnfit(f"{told}: {str(error) or 'time-out'}; see its log") from None
            time.sleep(_START_POLL_S)

    def checked_version(self) -> str:
        """Return the server's version.

        Raises:
            ServerUnfit: It is too old, or says none.
        """
        url = self.server.url
        try:
            answer = self.calls.wait(self.calls.get(self.version_path, ASK_S))
            self.facts = msgspec.json.decode(answer, type=dict[str, Any])
            version = str(self.facts["version"])
        except (aiohttp.ClientError, OSError, msgspec.MsgspecError, KeyError, StageError) as error:
            raise ServerUnfit(f"{url} does not say which {self.names} it is: {error}") from None
        known = tuple(map(int, re.findall(r"\d+", version)))[: len(self.oldest)]
        if known and known < self.oldest:
            oldest = ".".join(map(str, self.oldest))
            raise ServerUnfit(f"{url} is {self.names} {version}; at least {oldest} is needed")
        return version
