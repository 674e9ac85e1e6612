"""SGLang servers that encode. Nobody gives them work from here: the servers that prefill call them.

Such a server keeps the list of its encoders behind a port of its own. Whoever knows which encoders there are
keeps that list; every request is then encoded by those that are on it when it comes.
Source: SGLang 0.5.23, `disaggregation/encoder/`.
"""

from collections.abc import Iterable

import aiohttp
import msgspec

from stages.adapters.bodies import Json
from stages.adapters.calls import Calls
from stages.adapters.engine import ServerEngine
from stages.adapters.load import ServerLoad, read_encoder_load
from stages.adapters.watch import ASK_S, ServerUnfit, Watch
from stages.engines import EngineRefused
from stages.types import EmbeddingRef, EncodeJob

_LIST, _REGISTER, _UNREGISTER = "/list_encoder_urls", "/register_encoder_url", "/unregister_encoder_url"
_NOT_THERE = 404


class EncoderWatch(Watch):
    """Asks an SGLang server that encodes."""

    names = "SGLang"

    def checked_version(self) -> str:
        """Return nothing: it does not say its version, by which it is told from all other SGLang servers.

        Raises:
            ServerUnfit: It is one of those.
        """
        try:
            self.calls.wait(self.calls.get("/server_info", ASK_S))
        except aiohttp.ClientResponseError as error:
            if error.status == _NOT_THERE:
                return ""
            raise
        raise ServerUnfit(f"{self.server.url} was not started with --encoder-only")

    def ask(self) -> ServerLoad:
        """Return the server's load now; it has to be started with `--enable-metrics`."""
        return read_encoder_load(self.calls.wait(self.calls.get("/metrics", ASK_S)).decode())


class SglangEncoder(ServerEngine):
    """`EncodeEngine` by a server in `--encoder-only`: watched, counted and drained, but given no work."""

    watches = EncoderWatch

    def encode(self, job: EncodeJob) -> EmbeddingRef:
        """Refuse: what it makes goes to the server that asked for it, and cannot be handed on.

        Raises:
            EngineRefused: Always.
        """
        raise EngineRefused("SGLang's encoders are called by the servers that prefill")


class EncoderList:
    """The encoders that one server calls.

    Attributes:
        called: Addresses of those that it may call at this moment, or is about to be told of.
        ready: Whether there is at least one that it can call.
    """

    def __init__(self, calls: Calls, url: str) -> None:
        """Take the address of the list."""
        self._calls = calls
        self._url = url
        self.called: frozenset[str] = frozenset()
        self.ready = False

    def become(self, urls: Iterable[str]) -> None:
        """Make the list these addresses.

        It is read each time: a server that was started again has forgotten it, and one that finds an encoder
        slow takes it off by itself.

        Raises:
            EngineRefused: The server did not do it; the next call begins with what is there by then.
        """
        wanted, there = frozenset(urls), self._listed()
        self.called, self.ready = wanted | there, bool(wanted & there)
        for url in sorted(wanted - there):
            self._tell("POST", _REGISTER, url)
        for url in sorted(there - wanted):
            self._tell("DELETE", _UNREGISTER, url)
        self.called, self.ready = wanted, bool(wanted)

    def _listed(self) -> frozenset[str]:
        answer = self._ask("GET", _LIST)
        try:
            return frozenset(msgspec.json.decode(answer, type=dict[str, list[str]])["encoder_urls"])
        except (msgspec.MsgspecError, KeyError):
            raise EngineRefused(f"{self._url}{_LIST} answers no list of encoders") from None

    def _tell(self, method: str, path: str, url: str) -> None:
        self._ask(method, path, {"url": url})

    def _ask(self, method: str, path: str, body: Json | None = None) -> bytes:
        try:
            return self._calls.wait(self._calls.ask(method, self._url + path, body, ASK_S))
        except (aiohttp.ClientError, OSError) as error:
            raise EngineRefused(f"{method} {self._url}{path}: {str(error) or 'time-out'}") from None
