"""Blobs between hosts: what the server lets through, and how a pull survives a bad network."""

import contextlib
import dataclasses
import http.client
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from stages.blob_files import hash_owner
from stages.blob_http import BlobServer
from stages.blob_pull import HttpPull, PullLimits, release_remote
from stages.blobs import BlobSettings, BlobStore, SharedMemoryStore, open_store
from stages.engines import BlobUnavailable
from stages.free_ports import free_port
from stages.types import BlobHandle

TOKEN = "a token of the stack"
QUICK = PullLimits(range_bytes=64 * 1024, attempts=4, backoff_s=0.01, silence_s=2.0, total_s=20.0)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    directory = tmp_path_factory.mktemp("served")
    with BlobServer(directory, TOKEN) as server:
        yield directory, f"http://127.0.0.1:{server.port}"


@pytest.fixture
def writer(served: tuple[Path, str]) -> BlobStore:
    return open_store(BlobSettings(dir=served[0], public_url=served[1]))


@pytest.fixture
def client(served: tuple[Path, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served[1], headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        yield client


def reader(directory: Path, token: str = TOKEN, limits: PullLimits = QUICK) -> BlobStore:
    return SharedMemoryStore(BlobSettings(dir=directory), HttpPull(token, limits))


def why_not(store: BlobStore, handle: BlobHandle) -> str:
    with pytest.raises(BlobUnavailable) as caught:
        store.get(handle)
    return str(caught.value)


# The server


@pytest.mark.parametrize(
    ("asked", "status", "got"),
    [
        pytest.param(None, 200, b"0123456789", id="whole"),
        pytest.param("bytes=2-4", 206, b"234", id="inside"),
        pytest.param("bytes=7-", 206, b"789", id="open-ended"),
        pytest.param("bytes=-3", 206, b"789", id="last"),
        pytest.param("bytes=8-99", 206, b"89", id="cut-at-the-end"),
        pytest.param("bytes=0-0", 206, b"0", id="one"),
        pytest.param("bytes=-99", 206, b"0123456789", id="more-than-all"),
        pytest.param("bytes=10-12", 416, b"", id="behind-the-end"),
        pytest.param("bytes=-0", 416, b"", id="last-none"),
        pytest.param("bytes=4-2", 200, b"0123456789", id="backwards"),
        pytest.param("bytes=-", 200, b"0123456789", id="no-number"),
        pytest.param("bytes=0-1,4-5", 200, b"0123456789", id="several"),
        pytest.param("lines=0-1", 200, b"0123456789", id="another-unit"),
        pytest.param("bytes=x-y", 200, b"0123456789", id="nonsense"),
    ],
)
def test_ranges(writer: BlobStore, client: httpx.Client, asked: str | None, status: int, got: bytes) -> None:
    handle = writer.put(b"0123456789", owner="r", ttl_s=60)
    answer = client.get(handle.pull_url, headers={"Range": asked} if asked else {})
    assert answer.status_code == status
    assert answer.content == got


def test_head_tells_the_size_without_the_bytes(writer: BlobStore, client: httpx.Client) -> None:
    answer = client.head(writer.put(bytes(12_345), owner="r", ttl_s=60).pull_url)
    assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, "12345", b"")
    assert answer.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x"])
def test_without_the_token_nothing_is_told_or_done(
    writer: BlobStore, client: httpx.Client, given: str
) -> None:
    """401 for what exists and for what does not; a release is not carried out."""
    handle = writer.put(b"secret", owner="r", ttl_s=60)
    for method, url in [
        ("GET", handle.pull_url),
        ("HEAD", handle.pull_url),
        ("GET", handle.pull_url[:-1] + "!"),
        ("DELETE", f"/owners/{hash_owner('r')}"),
    ]:
        assert client.request(method, url, headers={"Authorization": given}).status_code == 401
    assert writer.get(handle) == b"secret"


def test_nothing_outside_the_store_is_served(served: tuple[Path, str], writer: BlobStore) -> None:
    """Paths go over the wire as written here, not as a client would tidy them up."""
    directory, url = served
    (directory / "secret").write_bytes(b"secret")
    real = writer.put(b"x", owner="r", ttl_s=60).pull_url.removeprefix(url)
    owner, name = real.split("/")[2:]
    (directory / "owners" / owner / name.replace(name[-4:], "0000")).symlink_to(directory / "secret")
    paths = [
        "/blobs/../secret",
        "/blobs/../../secret",
        f"/blobs/{owner}/../../secret",
        f"/blobs/{owner}/..%2f..%2fsecret",
        f"/blobs/{owner}/{name}/",
        f"/blobs/{owner}/{name}%00",
        f"/blobs/{owner}/{name}%0a",
        f"/blobs/{owner}/{name.upper()}!",
        f"/blobs/{owner}/{name[:-4]}0000",
        f"/blobs/{owner}/",
        f"/blobs/{owner}",
        "/blobs/",
        "/",
        "/store-id",
        "//etc/passwd",
    ]
    assert {path: status(url, "GET", path) for path in paths} == dict.fromkeys(paths, 404)
    assert status(url, "GET", real) == 200


def status(url: str, method: str, path: str) -> int:
    with contextlib.closing(http.client.HTTPConnection(url.removeprefix("http://"))) as connection:
        connection.request(method, path, headers={"Authorization": f"Bearer {TOKEN}"})
        return connection.getresponse().status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_blobs_can_only_be_read(writer: BlobStore, client: httpx.Client, method: str) -> None:
    handle = writer.put(b"x", owner="r", ttl_s=60)
    assert client.request(method, handle.pull_url).status_code == 405
    assert writer.get(handle) == b"x"


@pytest.mark.parametrize("owner", ["r1", "../../x", "x" * 10_000, "ключ", ""])
def test_an_owner_is_released_from_another_host(writer: BlobStore, tmp_path: Path, owner: str) -> None:
    handle = writer.put(b"x", owner=owner, ttl_s=60)
    kept = writer.put(b"kept", owner="another", ttl_s=60)
    for _ in range(2):
        release_remote(handle.pull_url, owner, TOKEN)
    assert "missing" in why_not(reader(tmp_path), handle)
    assert bytes(reader(tmp_path).get(kept)) == b"kept"


def test_a_release_that_is_refused_or_unheard_says_so(writer: BlobStore) -> None:
    handle = writer.put(b"x", owner="r1", ttl_s=60)
    with pytest.raises(ConnectionError, match="401"):
        release_remote(handle.pull_url, "r1", "wrong")
    with pytest.raises(OSError, match="refused"):
        release_remote(f"http://127.0.0.1:{free_port()}/blobs/o/n", "r1", TOKEN)
    assert writer.get(handle) == b"x"


@pytest.mark.parametrize("path", ["/owners/..", "/owners/", "/owners/r1", "/owners/%2e%2e"])
def test_only_hashes_of_owners_are_released(served: tuple[Path, str], path: str) -> None:
    assert status(served[1], "DELETE", path) == 404


def test_the_server_binds_to_the_address_given_and_leaves_it(tmp_path: Path) -> None:
    """One process can start, stop and start again on the same port; no thread is left."""
    before = serving()
    port = free_port("127.0.0.2")
    for _ in range(2):
        with BlobServer(tmp_path, TOKEN, "127.0.0.2", port) as server:
            assert server.port == port
            assert serving() == before + 1
            store = open_store(BlobSettings(dir=tmp_path, public_url=f"http://127.0.0.2:{port}"))
            handle = store.put(b"x", owner="r", ttl_s=60)
            assert bytes(reader(tmp_path / "reader").get(handle)) == b"x"
            with pytest.raises(OSError, match="in use"):
                BlobServer(tmp_path, TOKEN, "127.0.0.2", port)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port))
    assert serving() == before


def serving() -> int:
    return sum(thread.name == "blob-server" for thread in threading.enumerate())


def test_a_client_that_does_not_read_cannot_keep_the_server(tmp_path: Path) -> None:
    """Stopping takes a second or so for a transfer that hangs; a release meanwhile works."""
    server = BlobServer(tmp_path, TOKEN)
    server.start()
    store = open_store(BlobSettings(dir=tmp_path, public_url=f"http://127.0.0.1:{server.port}"))
    handle = store.put(bytes(50_000_000), owner="r", ttl_s=60)
    before = serving()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port)) as connection:
        path = handle.pull_url.partition(str(server.port))[2]
        connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
        assert connection.getresponse().status == 200
        release_remote(handle.pull_url, "r", TOKEN)
        start_s = time.monotonic()
        server.stop()
        assert time.monotonic() - start_s < 4.0
    assert serving() == before - 1


def test_a_transfer_under_way_survives_a_release(writer: BlobStore, client: httpx.Client) -> None:
    """The server has the blob open, so its bytes go on until the transfer's end."""
    data = random.Random(2).randbytes(20_000_000)
    handle = writer.put(data, owner="r", ttl_s=60)
    with client.stream("GET", handle.pull_url) as answer:
        pieces = answer.iter_bytes()
        first = next(pieces)
        writer.release("r")
        assert first + b"".join(pieces) == data
    assert client.get(handle.pull_url).status_code == 404


def test_a_server_without_a_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="token"):
        BlobServer(tmp_path, "")


# The pull


class Wire:
    """A TCP relay to a server that loses connections and slows down on command.

    Attributes:
        carried: Bytes relayed to clients so far.
        cut_every: Bytes after which a connection is lost; 0 for never.
        at: Called once, between two pieces, when so many bytes have been carried.
    """

    def __init__(
        self, port: int, cut_every: int = 0, at: tuple[int, Callable[[], None]] | None = None
    ) -> None:
        self.carried = 0
        self.connections = 0
        self.cut_every = cut_every
        self._at = at
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self.connections += 1
                with (
                    near,
                    contextlib.suppress(OSError),
                    socket.create_connection(("127.0.0.1", self._port)) as far,
                ):
                    back = threading.Thread(target=self._requests, args=(near, far))
                    back.start()
                    self._answers(far, near)
                    near.shutdown(socket.SHUT_RDWR)
                    back.join()

    def _requests(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(65536):
                far.sendall(data)
            far.shutdown(socket.SHUT_RDWR)

    def _answers(self, far: socket.socket, near: socket.socket) -> None:
        start = self.carried
        while data := far.recv(10_000):
            near.sendall(data)
            self.carried += len(data)
            if self._at is not None and self.carried >= self._at[0]:
                (_, act), self._at = self._at, None
                act()
            if self.cut_every and self.carried - start >= self.cut_every:
                return


def test_a_pull_resumes_where_the_connection_dropped(
    writer: BlobStore, served: tuple[Path, str], tmp_path: Path
) -> None:
    """Bytes that arrived are not asked for again: lost connections cost only what was in flight."""
    data = random.Random(0).randbytes(2_000_000)
    handle = writer.put(data, owner="r", ttl_s=60)
    with Wire(int(served[1].rpartition(":")[2]), cut_every=150_000) as wire:
        there = dataclasses.replace(handle, pull_url=handle.pull_url.replace(served[1], wire.url))
        assert bytes(reader(tmp_path).get(there)) == data
        assert wire.connections > 10
        assert wire.carried < 2_200_000


SERVE = """
import sys, threading
from pathlib import Path
from stages.blob_http import BlobServer
with BlobServer(Path(sys.argv[1]), sys.argv[2], "127.0.0.1", int(sys.argv[3])):
    print("serving", flush=True)
    threading.Event().wait()
"""


class OtherHost:
    """A server process that can be killed and started again on its port."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.port = free_port()
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-c", SERVE, str(self._directory), TOKEN, str(self.port)]
        root = str(Path(__file__).parents[2])
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, env={"PYTHONPATH": root})
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"serving\n"

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def other_host(tmp_path: Path) -> Iterator[OtherHost]:
    host = OtherHost(tmp_path / "other")
    yield host
    host.kill()


def test_a_pull_survives_a_server_killed_and_started_again(other_host: OtherHost, tmp_path: Path) -> None:
    """Kill -9 in the middle of a range, a new process on the same port: the same bytes, once."""
    data = random.Random(1).randbytes(6_000_000)
    restart = threading.Thread(target=other_host.start)

    def crash() -> None:
        other_host.kill()
        restart.start()

    with Wire(other_host.port, at=(2_000_000, crash)) as wire:
        store = open_store(BlobSettings(dir=tmp_path / "other", public_url=wire.url))
        handle = store.put(data, owner="r", ttl_s=60)
        patient = PullLimits(range_bytes=1 << 20, attempts=60, backoff_s=0.05)
        assert bytes(reader(tmp_path / "here", limits=patient).get(handle)) == data
        restart.join()
        assert wire.carried < 6_200_000


def test_a_pull_gives_up_on_a_server_that_stays_away(writer: BlobStore, tmp_path: Path) -> None:
    handle = writer.put(b"x", owner="r", ttl_s=60)
    away = dataclasses.replace(handle, pull_url=f"http://127.0.0.1:{free_port()}/blobs/o/n")
    start_s = time.monotonic()
    assert "refused" in why_not(reader(tmp_path), away)
    assert time.monotonic() - start_s < 2.0


def test_a_pull_has_a_total_time(writer: BlobStore, served: tuple[Path, str], tmp_path: Path) -> None:
    """A connection that is slow but never silent ends all the same."""
    handle = writer.put(bytes(5_000_000), owner="r", ttl_s=60)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=drip, args=(listener, handle.size_bytes), daemon=True).start()
        slow = f"http://127.0.0.1:{listener.getsockname()[1]}"
        there = dataclasses.replace(handle, pull_url=handle.pull_url.replace(served[1], slow))
        limits = PullLimits(total_s=0.3, silence_s=1.0)
        start_s = time.monotonic()
        assert "in 0.3 s" in why_not(reader(tmp_path, limits=limits), there)
        assert time.monotonic() - start_s < 2.0


def drip(listener: socket.socket, size: int) -> None:
    connection, _ = listener.accept()
    head = f"HTTP/1.1 206 x\r\nContent-Length: {size}\r\nContent-Range: bytes 0-{size - 1}/{size}\r\n\r\n"
    with connection, contextlib.suppress(OSError):
        connection.sendall(head.encode())
        while True:
            connection.sendall(b"\0")
            threading.Event().wait(0.01)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        pytest.param(
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789", "answered 200", id="no-ranges"
        ),
        pytest.param(
            "HTTP/1.1 206 x\r\nContent-Length: 10\r\n\r\n0123456789", "sends ''", id="no-range-told"
        ),
        pytest.param(
            "HTTP/1.1 206 x\r\nContent-Length: 10\r\nContent-Range: bytes 0-9/99\r\n\r\n0123456789",
            "bytes 0-9/99",
            id="another-size",
        ),
        pytest.param("HTTP/1.1 302 x\r\nLocation: http://elsewhere/\r\n\r\n", "answered 302", id="redirect"),
        pytest.param("HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n", "answered 503", id="in-trouble"),
        pytest.param("nonsense", "BadStatusLine", id="not-http"),
        pytest.param("", "RemoteDisconnected", id="silent"),
    ],
)
def test_odd_answers_make_a_blob_unavailable(
    writer: BlobStore, tmp_path: Path, answer: str, why: str
) -> None:
    """Redirects above all are not followed: the token goes to nobody else."""
    handle = writer.put(b"0123456789", owner="r", ttl_s=60)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=say, args=(listener, answer.encode()), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/blobs/o/n"
        assert why in why_not(reader(tmp_path), dataclasses.replace(handle, pull_url=url))


def say(listener: socket.socket, answer: bytes) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)


ODD_URLS = [
    "ftp://x/y",
    "/blobs/o/n",
    "http://",
    "http:///x",
    "file:///etc/passwd",
    "http://x:99999/y",
    "http://[/y",
    "http://x:y/z",
    "http://..a/b",
    "http://127.0.0.1:1/ x",
    "http://127.0.0.1:1/x\r\ny: z",
]


@pytest.mark.parametrize("url", ODD_URLS)
def test_what_is_no_address_of_a_server_makes_a_blob_unavailable(
    writer: BlobStore, tmp_path: Path, url: str
) -> None:
    handle = dataclasses.replace(writer.put(b"x", owner="r", ttl_s=60), pull_url=url)
    assert "pull" in why_not(reader(tmp_path), handle)


def test_the_wrong_token_is_told_apart(writer: BlobStore, tmp_path: Path) -> None:
    handle = writer.put(b"x", owner="r", ttl_s=60)
    assert "unauthorised" in why_not(reader(tmp_path, token="wrong"), handle)


def test_a_pull_keeps_nothing(writer: BlobStore, tmp_path: Path) -> None:
    handle = writer.put(bytes(100_000), owner="r", ttl_s=60)
    reader(tmp_path).get(handle)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()] == []


def test_many_threads_pull_at_once(writer: BlobStore, tmp_path: Path) -> None:
    blobs = [random.Random(n).randbytes(200_000) for n in range(8)]
    handles = [writer.put(blob, owner="r", ttl_s=60) for blob in blobs]
    store = reader(tmp_path)
    got: dict[int, bytes] = {}
    threads = [
        threading.Thread(target=lambda n=n: got.update({n: bytes(store.get(handles[n]))})) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == dict(enumerate(blobs))
