"""Fetching, against real servers on loopback: allowed by name or network, or refused."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address

import pytest

from orchestrator.addresses import Address, AllowList
from orchestrator.fetch import FetchError, SafeFetcher, Target, parse_url

LOOPBACK = AllowList.parse(["127.0.0.0/8"])
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Site:
    """A server with one canned answer per path; keeps what it was asked."""

    def __init__(self, answers: Mapping[str, bytes | Answer]) -> None:
        self.answers = answers
        self.requests: list[bytes] = []
        self.connections = 0
        self.port = 0

    @property
    def paths(self) -> list[str]:
        return [request.split()[1].decode() for request in self.requests]

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            answer = self.answers[self.paths[-1]]
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(answers: Mapping[str, bytes | Answer]) -> AsyncIterator[Site]:
    site = Site(answers)
    server = await asyncio.start_server(site, "127.0.0.1", 0)
    site.port = server.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        server.close()


class Names:
    """A resolver that answers from a table, one entry per question, and counts the questions."""

    def __init__(self, **answers: Sequence[str]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        self.asked.append(host)
        if host not in self.answers:
            raise OSError(f"no such name: {host}")
        return [ip_address(text) for text in self.answers[host]]


def redirect(location: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n".encode()


async def refusal(fetcher: SafeFetcher, url: str, *, max_bytes: int = 1000, timeout_s: float = 5.0) -> str:
    with pytest.raises(FetchError) as caught:
        await fetcher.fetch(url, max_bytes=max_bytes, timeout_s=timeout_s)
    return caught.value.code


def fetched(answer: bytes | Answer, *, max_bytes: int = 1000, timeout_s: float = 5.0) -> bytes | str:
    """The body that a server's answer gives, or the refusal's code."""

    async def scenario() -> bytes | str:
        async with serving({"/": answer}) as site:
            url = f"http://127.0.0.1:{site.port}/"
            try:
                return await SafeFetcher(LOOPBACK).fetch(url, max_bytes=max_bytes, timeout_s=timeout_s)
            except FetchError as error:
                return error.code

    return asyncio.run(scenario())


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://a.test", Target(scheme="http", host="a.test", port=80, path="/")),
        ("HTTPS://A.Test/x?y=1#z", Target(scheme="https", host="a.test", port=443, path="/x?y=1")),
        (
            "http://a.test:8080/ä?q=ö",
            Target(scheme="http", host="a.test", port=8080, path="/%C3%A4?q=%C3%B6"),
        ),
        ("http://[2606:4700::1]:81/%20", Target(scheme="http", host="2606:4700::1", port=81, path="/%20")),
        ("http://8.8.8.8?x", Target(scheme="http", host="8.8.8.8", port=80, path="/?x")),
    ],
)
def test_urls_are_taken_apart_once(url, target):
    assert parse_url(url) == target


def test_the_host_header_has_the_port_only_if_it_is_unusual():
    urls = ("https://a.test:443/", "http://a.test:443/", "http://[::1]:80/", "http://[::1]:81/")
    assert [parse_url(url).authority for url in urls] == ["a.test", "a.test:443", "[::1]", "[::1]:81"]


@pytest.mark.parametrize(
    "url",
    [
        *("", "a.test", "//a.test", "http:a.test", "http://", "http:///x"),
        *("file:///etc/passwd", "ftp://a.test", "gopher://a.test", "data:,x"),
        *("http://user@a.test", "http://user:pass@a.test", "http://a.test@127.0.0.1", "http://@a.test"),
        *(
            "http://a.test\\@b.test",
            "http://a.test\\.b",
            "http://a.test/\r\nx: y",
            "http://a .test",
            "http://a.\ttest",
        ),
        *("http://127.1", "http://0177.0.0.1", "http://0x7f.0.0.1", "http://0x7f000001", "http://2130706433"),
        *(
            "http://127.0.0.1.",
            "http://localhost.",
            "http://a.test./",
            "http://a%2etest",
            "http://127%2e0.0.1",
        ),
        *("http://[127.0.0.1]", "http://::1", "http://[::1", "http://[fe80::1%25eth0]", "http://a[::1]"),
        *("http://a.test:0", "http://a.test:65536", "http://a.test:x", "http://a.test:-1"),
        *("http://bücher.test", "http://①②⑦.⓪.⓪.①", "http://localhost\u3002", "http://a.test/" + "x" * 9000),
    ],
)
def test_odd_urls_are_refused(url):
    with pytest.raises(FetchError) as caught:
        parse_url(url)
    assert caught.value.code == "invalid_url"


def test_the_connection_goes_to_the_address_that_was_checked_with_the_clients_host_name():
    async def scenario():
        names = Names(**{"images.test": ["127.0.0.1"]})
        async with serving({"/a?b": OK}) as site:
            url = f"http://images.test:{site.port}/a?b"
            body = await SafeFetcher(LOOPBACK, resolve=names).fetch(url, max_bytes=5, timeout_s=5)
        assert body == b"hello"
        assert names.asked == ["images.test"]
        lines = site.requests[0].decode().lower().split("\r\n")
        assert lines[:2] == ["get /a?b http/1.1", f"host: images.test:{site.port}"]
        assert {line.partition(":")[0] for line in lines[1:] if line} == {
            *("host", "accept", "accept-encoding", "user-agent")
        }

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "[::]",
        "localhost",
        "169.254.169.254",
        "[fd00:ec2::254]",
    ],
)
def test_private_addresses_are_refused_without_a_connection(host):
    async def scenario():
        async with serving({"/": OK}) as site:
            assert await refusal(SafeFetcher(), f"http://{host}:{site.port}/") == "address_not_allowed"
            assert site.connections == 0

    asyncio.run(scenario())


def test_one_private_address_among_public_ones_condemns_a_name():
    async def scenario():
        async with serving({"/": OK}) as site:
            names = Names(**{"mixed.test": ["8.8.8.8", "127.0.0.1"]})
            code = await refusal(SafeFetcher(resolve=names), f"http://mixed.test:{site.port}/")
            assert (code, site.connections) == ("address_not_allowed", 0)

    asyncio.run(scenario())


def test_a_refusal_does_not_tell_what_a_name_resolves_to():
    async def scenario():
        with pytest.raises(FetchError) as caught:
            names = Names(**{"intra.test": ["10.20.30.40"]})
            await SafeFetcher(resolve=names).fetch("http://intra.test/", max_bytes=1, timeout_s=5)
        assert "10.20" not in str(caught.value)

    asyncio.run(scenario())


def test_a_name_is_resolved_once_per_hop():
    """A second answer (DNS rebinding) has no chance to differ from the one that was checked."""

    async def scenario():
        names = Names(**{"images.test": ["127.0.0.1"]})
        async with serving({"/": redirect("/next"), "/next": OK}) as site:
            fetcher = SafeFetcher(LOOPBACK, resolve=names)
            await fetcher.fetch(f"http://images.test:{site.port}/", max_bytes=9, timeout_s=5)
        assert (names.asked, site.paths) == (["images.test"] * 2, ["/", "/next"])

    asyncio.run(scenario())


def test_an_allowed_host_that_redirects_to_another_private_address_is_refused():
    async def scenario():
        names = Names(**{"images.test": ["127.0.0.1"]})
        answers: dict[str, bytes | Answer] = {"/secret": OK}
        async with serving(answers) as site:
            answers["/"] = redirect(f"http://127.0.0.1:{site.port}/secret")
            fetcher = SafeFetcher(AllowList.parse(["images.test"]), resolve=names)
            assert await refusal(fetcher, f"http://images.test:{site.port}/") == "address_not_allowed"
        assert site.paths == ["/"]

    asyncio.run(scenario())


def test_the_allow_list_can_be_changed_while_serving():
    async def scenario():
        async with serving({"/": OK}) as site:
            fetcher, url = SafeFetcher(LOOPBACK), f"http://127.0.0.1:{site.port}/"
            await fetcher.fetch(url, max_bytes=9, timeout_s=5)
            fetcher.set_allow_list(AllowList())
            assert await refusal(fetcher, url) == "address_not_allowed"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("file:///etc/passwd", "invalid_url"),
        ("http://[", "invalid_url"),
        ("http://user:pass@127.0.0.1/", "invalid_url"),
        ("http://0x7f000001/", "invalid_url"),
        ("//169.254.169.254/latest/meta-data", "address_not_allowed"),
        ("/", "too_many_redirects"),
        ("", "too_many_redirects"),
    ],
)
def test_redirects_that_lead_nowhere(location, code):
    assert fetched(redirect(location)) == code


@pytest.mark.parametrize(("redirects", "ends"), [(3, b"hello"), (4, "too_many_redirects")])
def test_three_redirects_are_followed(redirects, ends):
    async def scenario():
        answers: dict[str, bytes | Answer] = {f"/{i}": redirect(f"{i + 1}") for i in range(redirects)}
        async with serving({**answers, f"/{redirects}": OK}) as site:
            try:
                url = f"http://127.0.0.1:{site.port}/0"
                return await SafeFetcher(LOOPBACK).fetch(url, max_bytes=9, timeout_s=5)
            except FetchError as error:
                return error.code

    assert asyncio.run(scenario()) == ends


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        pytest.param(OK, b"hello", id="sized"),
        pytest.param(CHUNKED, b"hello", id="chunked"),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\nhello", b"hello", id="until-close"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b"", id="empty"),
        pytest.param(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "url_status", id="404"),
        pytest.param(b"HTTP/1.1 206 Part\r\ncontent-length: 0\r\n\r\n", "url_status", id="206"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 0\r\n\r\n", "url_status", id="gzip"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello", "url_unreachable", id="cut"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ncontent-length: " + b"9" * 5000 + b"\r\n\r\n",
            "url_unreachable",
            id="endless-number",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nhello", "url_unreachable", id="negative-size"
        ),
        pytest.param(b"220 smtp ready\r\n", "url_unreachable", id="no-http"),
        pytest.param(b"", "url_unreachable", id="closes"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 40_000 + b"\r\n", "url_unreachable", id="endless-headers"
        ),
    ],
)
def test_what_servers_answer(answer, result):
    assert fetched(answer) == result


def test_a_body_of_exactly_the_limit_is_taken_and_one_byte_more_is_not():
    assert fetched(CHUNKED, max_bytes=5) == b"hello"
    assert fetched(CHUNKED, max_bytes=4) == "media_too_large"
    assert fetched(OK, max_bytes=4) == "media_too_large"


def test_each_piece_is_announced_before_it_is_kept_and_may_be_refused():
    class FullError(Exception):
        pass

    async def scenario():
        pieces: list[int] = []

        def on_bytes(size_bytes: int) -> None:
            pieces.append(size_bytes)
            if sum(pieces) > 5:
                raise FullError

        answers = {"/": CHUNKED, "/long": CHUNKED.replace(b"0\r\n\r\n", b"1\r\n!\r\n" * 9)}
        async with serving(answers) as site:
            url = f"http://127.0.0.1:{site.port}/"
            fetcher = SafeFetcher(LOOPBACK)
            assert await fetcher.fetch(url, max_bytes=99, timeout_s=5, on_bytes=on_bytes) == b"hello"
            assert pieces == [5]
            with pytest.raises(FullError):
                await fetcher.fetch(f"{url}long", max_bytes=99, timeout_s=5, on_bytes=on_bytes)

    asyncio.run(scenario())


def test_an_announced_size_beyond_the_limit_is_refused_before_the_body():
    async def silent(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n")
        await asyncio.sleep(60)

    assert fetched(silent) == "media_too_large"


def test_an_endless_body_is_cut_at_the_limit():
    sent_bytes = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent_bytes
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            sent_bytes += 65_536
            await writer.drain()

    assert fetched(endless, max_bytes=1_000_000) == "media_too_large"
    assert sent_bytes < 20_000_000


async def _says_nothing(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def _drips_headers(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x: y\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)


async def _drips_body(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("answer", [_says_nothing, _drips_headers, _drips_body])
def test_slow_servers_run_into_the_total_deadline(answer):
    started_s = time.monotonic()
    assert fetched(answer, timeout_s=0.2) == "url_timeout"
    assert time.monotonic() - started_s < 10.0


def test_a_slow_name_server_counts_towards_the_deadline():
    async def slow(host: str, port: int) -> Sequence[Address]:
        await asyncio.sleep(60)
        return []

    async def scenario():
        assert await refusal(SafeFetcher(resolve=slow), "http://a.test/", timeout_s=0.05) == "url_timeout"

    asyncio.run(scenario())


def test_an_unknown_host_is_named():
    async def scenario():
        with pytest.raises(FetchError, match=r"nowhere\.test") as caught:
            await SafeFetcher(resolve=Names()).fetch("http://nowhere.test/", max_bytes=1, timeout_s=5)
        assert caught.value.code == "unknown_host"

    asyncio.run(scenario())


def test_the_systems_resolver_knows_localhost():
    async def scenario():
        async with serving({"/": OK}) as site:
            fetcher = SafeFetcher(AllowList.parse(["localhost"]))
            body = await fetcher.fetch(f"http://localhost:{site.port}/", max_bytes=9, timeout_s=5)
            fetcher.close()
            return body

    assert asyncio.run(scenario()) == b"hello"


def test_the_next_address_is_tried_when_one_does_not_answer():
    async def scenario():
        async with serving({"/": OK}) as site:
            names = Names(**{"two.test": ["127.0.0.99", "127.0.0.1"]})
            fetcher = SafeFetcher(LOOPBACK, resolve=names)
            return await fetcher.fetch(f"http://two.test:{site.port}/", max_bytes=9, timeout_s=5)

    assert asyncio.run(scenario()) == b"hello"


def test_a_closed_port_is_unreachable():
    async def scenario():
        async with serving({}) as site:
            pass
        return await refusal(SafeFetcher(LOOPBACK), f"http://127.0.0.1:{site.port}/")

    assert asyncio.run(scenario()) == "url_unreachable"


def test_proxies_of_the_environment_are_not_used(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert fetched(OK) == b"hello"


def test_tls_asks_the_checked_address_for_the_clients_host_name():
    """The server name in the ClientHello is what certificates are held against."""

    async def scenario():
        hello = asyncio.get_running_loop().create_future()

        async def tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            hello.set_result(await reader.read(2000))
            writer.close()

        server = await asyncio.start_server(tls, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        names = Names(**{"images.test": ["127.0.0.1"]})
        assert (
            await refusal(SafeFetcher(LOOPBACK, resolve=names), f"https://images.test:{port}/")
            == "url_unreachable"
        )
        server.close()
        return await hello

    assert b"images.test" in asyncio.run(scenario())
