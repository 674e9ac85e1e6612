"""SGLang servers that encode. Nobody gives them work from here: the servers that prefill call them.

Such a server keeps the list of its encoders behind a port of its own. Whoever knows which encoders there are
keeps that list; every request is then encoded by those that are on it when it comes.
Source: SGLang 0.5.23, `disaggregation/encoder/`.
"""

from collections.abc import Iterable
from urllib.parse import urlsplit

import aiohttp
import msgspec

from stages.adapters.bodies import Json
from stages.adapters.calls import Calls
from stages.adapters.engine import ServerEngine
from stages.adapters.load import ServerLoad, read_encoder_load
from stages.adapters.server import EngineServer
from stages.adapters.watch import ASK_S, ServerUnfit, Watch
from stages.engines import EngineRefused
from stages.http_url import http_url
from stages.types import EmbeddingRef, EncodeJob

_LIST, _REGISTER, _UNREGISTER = "/list_encoder_urls", "/register_encoder_url", "/unregister_encoder_url"
_SUCCESS, _NOT_THERE, _NOT_SO = 200, 404, 405


class EncoderWatch(Watch):
    """Asks an SGLang server that encodes."""

    names = "SGLang"

    def checked_version(self) -> str:
        """Return nothing: it does not say its version, by which it is told from all other SGLang servers.

        Raises:
            ServerUnfit: It is one of those, or no SGLang server.
        """
        # Whatever else there is may lack /server_info; what it must have is /encode, which is posted to.
        if (self._status("/server_info"), self._status("/encode")) != (_NOT_THERE, _NOT_SO):
            raise ServerUnfit(f"{self.server.url} is no SGLang server that was started with --encoder-only")
        return ""

    def _status(self, path: str) -> int:
        try:
            self.calls.wait(self.calls.get(path, ASK_S))
        except aiohttp.ClientResponseError as error:
            return error.status
        except (aiohttp.ClientError, OSError) as error:
            told = f"{self.server.url} does not say whether it encodes"
            raise ServerUnfit(f"{told}: {str(error) or 'time-out'}") from None
        return _SUCCESS

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
        peer_url: Where others find the list.
        called: Addresses of those that it may call at this moment, or is about to be told of.
        ready: Whether there is at least one that it can call.
    """

    def __init__(self, calls: Calls, url: str, peer_url: str = "") -> None:
        """Take the address of the list, as it is from here and from others' side."""
        self._calls = calls
        self._url = url
        self.peer_url = peer_url
        self.called: frozenset[str] = frozenset()
        self.ready = False

    def become(self, urls: Iterable[str]) -> None:
        """Make the list these addresses.

        It is read each time: a server that was started again has forgotten it, and one that finds an encoder
        slow takes it off by itself.

        Raises:
            EngineRefused: The server did not do all of it; the next call begins with what is there by then.
        """
        wanted = frozenset(urls)
        self.called |= wanted  # before all that takes time: one that drains by now has to see it in time
        there = self._calls.wait(listed(self._calls, self._url))
        self.called, self.ready = wanted | there, bool(wanted & there)
        if failures := [error for change in _changes(there, wanted) if (error := self._failed(*change))]:
            raise failures[0]
        self.called, self.ready = wanted, bool(wanted)

    def _failed(self, method: str, path: str, url: str) -> EngineRefused | None:
        """Have the list changed; return why it was not: one address that is refused keeps no other off."""
        try:
            self._calls.wait(_ask(self._calls, method, self._url + path, {"url": url}))
        except EngineRefused as error:
            return error
        return None


def encoder_list(calls: Calls, server: EngineServer, facts: Json) -> EncoderList | None:
    """Return the list that a server keeps of its encoders, None if it calls none.

    Raises:
        ServerUnfit: It does not say where the list is.
    """
    if not (server.encoders_called and facts.get("language_only")):
        return None
    port = int(facts.get("encoder_bootstrap_port") or 0)
    if not port:
        raise ServerUnfit(f"{server.url} does not say where its list of encoders is")
    here, there = (http_url(urlsplit(url).hostname or "", port) for url in (server.url, server.peer_url))
    return EncoderList(calls, here, there)


async def listed(calls: Calls, url: str) -> frozenset[str]:
    """Return the encoders on the list at an address, as it is now.

    Raises:
        EngineRefused: It cannot be had.
    """
    answer = await _ask(calls, "GET", url + _LIST)
    try:
        return frozenset(msgspec.json.decode(answer, type=dict[str, list[str]])["encoder_urls"])
    except (msgspec.MsgspecError, KeyError):
        raise EngineRefused(f"{url}{_LIST} answers no list of encoders") from None


async def _ask(calls: Calls, method: str, url: str, body: Json | None = None) -> bytes:
    try:
        return await calls.ask(method, url, body, ASK_S)
    except (aiohttp.ClientError, OSError) as error:
        raise EngineRefused(f"{method} {url}: {str(error) or 'time-out'}") from None


def _changes(there: frozenset[str], wanted: frozenset[str]) -> Iterable[tuple[str, str, str]]:
    """Return what makes one list the other: method, path, address.

    What is wrong goes before what is new comes, unless the list would be empty in between: its server would
    have nobody to call.
    """
    wrong = [("DELETE", _UNREGISTER, url) for url in sorted(there - wanted)]
    new = [("POST", _REGISTER, url) for url in sorted(wanted - there)]
    return wrong + new if there & wanted else new + wrong
