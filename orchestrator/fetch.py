"""Fetches a client's URL without letting the client reach what only the gateway can reach.

The name is resolved here, every address is checked, and the connection goes to the checked address:
nothing resolves the name a second time. Each redirect goes through all of it again. There are no
proxies, cookies, credentials or compressed bodies.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address
from ssl import SSLContext
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import httpcore
import httpx

from orchestrator.addresses import Address, AllowList, is_host_name, literal_address

Resolver = Callable[[str, int], Awaitable[Sequence[Address]]]
"""Host and port → addresses. Raises OSError if there are none."""

MAX_REDIRECTS = 3
MAX_URL_CHARS = 8_192
_DEFAULT_PORTS = {"http": 80, "https": 443}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ADDRESSES_TRIED = 3
_HEADERS = [("accept", "image/*,*/*;q=0.5"), ("accept-encoding", "identity"), ("user-agent", "tercet")]


class FetchError(Exception):
    """A URL that was not fetched. All of these are the client's to mend.

    Attributes:
        code: `invalid_url`, `unknown_host`, `address_not_allowed`, `too_many_redirects`,
            `url_unreachable`, `url_status`, `url_timeout` or `media_too_large`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A URL taken apart once; nothing else parses it again.

    Attributes:
        host: Lower-case name or address, IPv6 without brackets.
        path: Path and query, percent-encoded.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host and port as the Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def parse_url(url: str) -> Target:
    """Take an http or https URL apart.

    Raises:
        FetchError: `invalid_url`: another scheme, credentials, a host that is neither a DNS name nor
            an address in its usual notation, control characters.
    """
    if len(url) > MAX_URL_CHARS:
        raise FetchError("invalid_url", f"the URL is longer than {MAX_URL_CHARS:,} characters")
    # Parsers disagree on these, and urlsplit drops tabs and line breaks silently.
    if "\\" in url or any(c <= " " or c == "\x7f" for c in url):
        raise FetchError("invalid_url", "the URL has a backslash, a space or a control character")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise FetchError("invalid_url", "the URL's host or port is malformed") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise FetchError("invalid_url", "only http and https URLs are fetched")
    if "@" in parts.netloc:
        raise FetchError("invalid_url", "the URL has credentials; leave them out")
    if port == 0:
        raise FetchError("invalid_url", "port 0 cannot be fetched from")
    port = port or _DEFAULT_PORTS[parts.scheme]
    return Target(scheme=parts.scheme, host=_host(parts), port=port, path=_path(parts))


class SafeFetcher:
    """Fetches bytes by http and https.

    Args:
        allow: Hosts and networks that may be fetched from although they are not public.
        resolve: Resolves names; the system's resolver if not given.
        ssl_context: Verifies servers; Certifi's roots if not given.
    """

    def __init__(
        self,
        allow: AllowList = AllowList(),  # noqa: B008 - frozen
        *,
        resolve: Resolver | None = None,
        ssl_context: SSLContext | None = None,
    ) -> None:
        # Threads of its own: names that resolve slowly must not hold up other work of the process.
        self._threads = ThreadPoolExecutor(16, thread_name_prefix="resolve")
        self._backend = _CheckedBackend(allow, resolve or self._resolve)
        self._given_context = ssl_context

    async def fetch(
        self, url: str, *, max_bytes: int, timeout_s: float, on_bytes: Callable[[int], None] | None = None
    ) -> bytes:
        """Return the body that the URL has, after at most three redirects.

        Args:
            url: An http or https URL.
            max_bytes: Reading stops beyond it.
            timeout_s: For everything together: names, connections, redirects and the body.
            on_bytes: Called with the size of each piece of the body before it is kept; what it raises
                ends the fetch.

        Raises:
            FetchError: See there.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._follow(url, _Sink(max_bytes, on_bytes))
        except TimeoutError:
            raise FetchError("url_timeout", f"the URL did not deliver within {timeout_s:g} s") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException):
            raise FetchError("url_unreachable", "the URL's server could not be talked to") from None

    def set_allow_list(self, allow: AllowList) -> None:
        """Put another allow list in force, for connections made from now on."""
        self._backend.allow = allow

    def close(self) -> None:
        """Give up the resolver's threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _follow(self, url: str, sink: "_Sink") -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            result = await self._get(parse_url(url), sink)
            if isinstance(result, bytes):
                return result
            url = _joined(url, result)
        raise FetchError("too_many_redirects", f"the URL redirects more than {MAX_REDIRECTS} times")

    async def _get(self, target: Target, sink: "_Sink") -> bytes | str:
        """Return the body, or the address to go on with."""
        url = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
        # A pool per request, so that no connection outlives the check of its address.
        async with (
            httpcore.AsyncConnectionPool(
                ssl_context=self._ssl_context if target.scheme == "https" else None,
                network_backend=self._backend,
            ) as pool,
            pool.stream("GET", url, headers=[("host", target.authority), *_HEADERS]) as response,
        ):
            headers = {name.lower(): value for name, value in response.headers}
            if response.status in _REDIRECTS:
                return headers.get(b"location", b"").decode("latin-1")
            if response.status != 200:
                raise FetchError("url_status", f"the URL answered with status {response.status}")
            if headers.get(b"content-encoding", b"identity") != b"identity":
                raise FetchError(
                    "url_status", "the URL answered with a compressed body, which was not asked for"
                )
            return await sink.read(response, headers.get(b"content-length", b""))

    async def _resolve(self, host: str, port: int) -> Sequence[Address]:
        return await asyncio.get_running_loop().run_in_executor(self._threads, _lookup, host, port)

    @cached_property
    def _ssl_context(self) -> SSLContext:
        # Reading the roots takes tens of milliseconds: once, and only if there is an https URL.
        return self._given_context or httpx.create_ssl_context(trust_env=False)


class _CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked; httpcore keeps the name for Host, SNI and certificates."""

    def __init__(self, allow: AllowList, resolve: Resolver) -> None:
        self.allow = allow
        self._resolve = resolve
        self._sockets = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature; fetch has the deadline
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: httpcore.NetworkError = httpcore.ConnectError()
        for address in await self._checked(host, port):
            try:
                return await self._sockets.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except httpcore.NetworkError as error:
                failure = error
        raise failure

    async def _checked(self, host: str, port: int) -> Sequence[Address]:
        literal = literal_address(host)
        try:
            addresses = [literal] if literal else await self._resolve(host, port)
        except OSError:
            addresses = []
        if not addresses:
            raise FetchError("unknown_host", f"the host {host!r} is unknown")
        # One bad address condemns the name: which one a connection gets would be chance.
        if not all(self.allow.permits(host, address) for address in addresses):
            message = f"the host {host!r} is not public (policy: admission.fetch.allow)"
            raise FetchError("address_not_allowed", message)
        return addresses[:_ADDRESSES_TRIED]


class _Sink:
    """Where a body goes: its limits."""

    def __init__(self, max_bytes: int, on_bytes: Callable[[int], None] | None) -> None:
        self._max_bytes = max_bytes
        self._on_bytes = on_bytes

    async def read(self, response: httpcore.Response, announced: bytes) -> bytes:
        if announced.isdigit():
            self._check(int(announced))
        body = bytearray()
        async for piece in response.aiter_stream():
            self._check(len(body) + len(piece))
            if self._on_bytes:
                self._on_bytes(len(piece))
            body += piece
        return bytes(body)

    def _check(self, size_bytes: int) -> None:
        if size_bytes > self._max_bytes:
            message = f"the URL's body exceeds the limit of {self._max_bytes:,} bytes"
            raise FetchError("media_too_large", message)


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        raise FetchError("invalid_url", "the URL redirects to a malformed address") from None


def _lookup(host: str, port: int) -> Sequence[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # A link-local answer carries its interface behind a percent sign.
    return [ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]


def _host(parts: SplitResult) -> str:
    host = (parts.hostname or "").lower()
    bracketed = parts.netloc.startswith("[")
    literal = literal_address(host)
    if is_host_name(host) or (literal is not None and bracketed == (literal.version == 6)):
        return host
    message = (
        "the URL's host must be a DNS name (punycode if international) or an address in its usual notation"
    )
    raise FetchError("invalid_url", message)


def _path(parts: SplitResult) -> str:
    query = f"?{quote(parts.query, safe=_URL_CHARS)}" if parts.query else ""
    return (quote(parts.path, safe=_URL_CHARS) or "/") + query


_URL_CHARS = "%/:=&?~#+!$,;'@()*[]"
