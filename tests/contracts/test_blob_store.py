"""What every blob store keeps to: on one host, inlined, and read from another host."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from stages.blob_files import hash_owner
from stages.blob_http import BlobServer
from stages.blobs import BlobSettings, BlobStore, BlobStoreFull, open_store
from stages.engines import BlobUnavailable
from stages.types import BlobHandle

TOKEN = "a token of the stack"
OWNERS = ["", "r1", "../../x", "/etc/passwd", "a/b", "..", "\0", "ключ 🔑", "\udcff", "x" * 10_000, "a\nb"]
CHILD_ENV = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
SIZES = [1, 5_000, (1 << 20) - 1, 1 << 20, (8 << 20) + 3]


@dataclass(frozen=True)
class Hosts:
    """A writer's store, a reader's, and the directory that holds the writer's blobs."""

    writer: BlobStore
    reader: BlobStore
    dir: Path

    def file(self, handle: BlobHandle) -> Path:
        return self.dir / "owners" / handle.uri.split("/", 3)[3]

    def files(self) -> list[Path]:
        return [path for path in self.dir.rglob("*") if path.is_file() and not path.is_symlink()]


@pytest.fixture(scope="module")
def other_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Serve a directory as another host would; give it and its address."""
    directory = tmp_path_factory.mktemp("other-host")
    with BlobServer(directory, TOKEN) as server:
        yield directory, f"http://127.0.0.1:{server.port}"


def one_host(directory: Path, **more: int) -> Hosts:
    """Two stores on one directory, as two processes of a host have them."""
    writer, reader = (open_store(BlobSettings(dir=directory, **more)) for _ in range(2))
    return Hosts(writer, reader, directory)


def two_hosts(served: tuple[Path, str], here: Path) -> Hosts:
    directory, url = served
    return Hosts(
        open_store(BlobSettings(dir=directory, public_url=url)),
        open_store(BlobSettings(dir=here, token=TOKEN)),
        directory,
    )


@pytest.fixture(params=["shared", "http"])
def hosts(request: pytest.FixtureRequest, tmp_path: Path) -> Hosts:
    """Every store that keeps blobs outside their handles."""
    if request.param == "shared":
        return one_host(tmp_path)
    return two_hosts(request.getfixturevalue("other_host"), tmp_path)


@pytest.fixture(params=["shared", "http", "inline"])
def any_hosts(request: pytest.FixtureRequest, tmp_path: Path) -> Hosts:
    """Every store."""
    if request.param == "inline":
        return one_host(tmp_path, inline_bytes=64 * 1024)
    if request.param == "shared":
        return one_host(tmp_path)
    return two_hosts(request.getfixturevalue("other_host"), tmp_path)


def unavailable(store: BlobStore, handle: BlobHandle) -> str:
    with pytest.raises(BlobUnavailable) as caught:
        store.get(handle)
    return str(caught.value)


def eventually(holds: Callable[[], bool], within_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline_s, "did not happen in time"
        time.sleep(0.01)


# What is put can be read


@pytest.mark.parametrize("size", [0, *SIZES])
def test_what_is_put_is_read(any_hosts: Hosts, size: int) -> None:
    """Bytes come back whole, at every boundary between transports, mappings and ranges."""
    data = random.Random(size).randbytes(size)
    handle = any_hosts.writer.put(data, owner="r", ttl_s=60)
    assert bytes(any_hosts.reader.get(handle)) == data
    assert handle.size_bytes == size


def test_handle_survives_json(any_hosts: Hosts) -> None:
    handle = any_hosts.writer.put(b"soft tokens", owner="r", ttl_s=60)
    arrived = BlobHandle(**json.loads(json.dumps(dataclasses.asdict(handle))))
    assert arrived == handle
    assert bytes(any_hosts.reader.get(arrived)) == b"soft tokens"


@pytest.mark.parametrize("shape", [(0, 4), (3, 4), (2, 2, 2, 50_000, 2)])
def test_arrays_are_put_and_read_without_conversion(any_hosts: Hosts, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).random(shape, np.float32)
    handle = any_hosts.writer.put(array, owner="r", ttl_s=60)
    read = np.frombuffer(any_hosts.reader.get(handle), np.float32).reshape(shape)
    assert np.array_equal(read, array)
    assert not read.flags.writeable


@pytest.mark.parametrize("owner", OWNERS, ids=range(len(OWNERS)))
def test_any_string_is_an_owner(hosts: Hosts, owner: str) -> None:
    """No owner's name reaches the file system."""
    handle = hosts.writer.put(b"x" * 100, owner=owner, ttl_s=60)
    assert bytes(hosts.reader.get(handle)) == b"x" * 100
    assert hosts.file(handle).parent.name == hash_owner(owner)
    assert hosts.file(handle).resolve().is_relative_to(hosts.dir.resolve())
    hosts.writer.release(owner)
    assert "missing" in unavailable(hosts.reader, handle)


def test_names_cannot_be_guessed(hosts: Hosts) -> None:
    """Equal bytes of one owner get names that share no random part."""
    names = {hosts.writer.put(b"same", owner="r", ttl_s=60).uri[-32:] for _ in range(50)}
    assert len(names) == 50


@pytest.mark.parametrize("ttl_s", [0.0, -1.0, float("nan"), float("inf")])
def test_time_to_live_is_positive_and_finite(hosts: Hosts, ttl_s: float) -> None:
    with pytest.raises(ValueError, match="ttl_s"):
        hosts.writer.put(b"x", owner="r", ttl_s=ttl_s)


# References


def test_release_drops_all_of_an_owner_and_nothing_of_others(hosts: Hosts) -> None:
    mine = [hosts.writer.put(b"mine", owner="r1", ttl_s=60) for _ in range(3)]
    other = hosts.writer.put(b"other", owner="r2", ttl_s=60)
    hosts.writer.release("r1")
    assert ["missing" in unavailable(hosts.reader, handle) for handle in mine] == [True] * 3
    assert bytes(hosts.reader.get(other)) == b"other"
    assert not hosts.file(mine[0]).parent.exists()


def test_release_of_an_unknown_owner_is_nothing(any_hosts: Hosts) -> None:
    any_hosts.writer.release("never seen")
    any_hosts.writer.release("never seen")


def test_a_retained_blob_outlives_its_first_owner(hosts: Hosts) -> None:
    """Each owner's handle lives as long as that owner."""
    first = hosts.writer.put(b"embedding", owner="cache", ttl_s=60)
    further = hosts.writer.retain(first, "r1")
    assert hosts.file(first).samefile(hosts.file(further))
    hosts.writer.release("cache")
    assert "missing" in unavailable(hosts.reader, first)
    assert bytes(hosts.reader.get(further)) == b"embedding"
    hosts.writer.release("r1")
    assert "missing" in unavailable(hosts.reader, further)


def test_what_is_gone_cannot_be_retained(hosts: Hosts) -> None:
    handle = hosts.writer.put(b"x", owner="r1", ttl_s=60)
    hosts.writer.release("r1")
    with pytest.raises(BlobUnavailable, match="missing"):
        hosts.writer.retain(handle, "r2")


def test_an_inlined_blob_needs_no_reference(tmp_path: Path) -> None:
    """Up to `inline_bytes` the handle is the blob; above it there is a file."""
    hosts = one_host(tmp_path, inline_bytes=100)
    small = hosts.writer.put(b"x" * 100, owner="r", ttl_s=60)
    assert small.uri.startswith("inline:")
    assert not small.pull_url
    assert hosts.files() == []
    hosts.writer.release("r")
    assert bytes(hosts.reader.get(hosts.reader.retain(small, "r2"))) == b"x" * 100
    assert hosts.writer.put(b"x" * 101, owner="r", ttl_s=60).uri.startswith("shm://")


# Sweep


def test_sweep_drops_what_outlived_its_time(hosts: Hosts) -> None:
    hosts.writer.sweep(2e9 * 1000)
    now = time.time()
    short = hosts.writer.put(b"short", owner="r1", ttl_s=10)
    long = hosts.writer.put(b"long", owner="r1", ttl_s=1000)
    assert hosts.writer.sweep(now + 9) == 0
    assert hosts.writer.sweep(now + 20) == 1
    assert "missing" in unavailable(hosts.reader, short)
    assert bytes(hosts.reader.get(long)) == b"long"
    assert hosts.writer.sweep(now + 2000) == 1
    assert hosts.files() == []
    assert list((hosts.dir / "owners").iterdir()) == []


def test_each_reference_has_its_own_time(hosts: Hosts) -> None:
    """A blob that is retained lives for another `ttl_s` from then on."""
    first = hosts.writer.put(b"x", owner="cache", ttl_s=10)
    later = hosts.writer.retain(dataclasses.replace(first, ttl_s=100), "r1")
    hosts.writer.sweep(time.time() + 50)
    assert "missing" in unavailable(hosts.reader, first)
    assert bytes(hosts.reader.get(later)) == b"x"


@pytest.mark.parametrize("size", SIZES)
def test_a_reader_keeps_what_it_has_opened(hosts: Hosts, size: int) -> None:
    """Neither sweep nor release takes bytes from under a reader."""
    data = random.Random(size).randbytes(size)
    held = hosts.reader.get(hosts.writer.put(data, owner="r1", ttl_s=1))
    hosts.writer.sweep(time.time() + 100)
    hosts.writer.release("r1")
    assert bytes(held) == data


# Faults


@pytest.mark.parametrize("size", SIZES)
def test_a_flipped_bit_is_noticed(hosts: Hosts, size: int) -> None:
    handle = hosts.writer.put(bytes(size), owner="r", ttl_s=60)
    with hosts.file(handle).open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\x10")
    assert "checksum" in unavailable(hosts.reader, handle)


@pytest.mark.parametrize("change", [-5_000, -1, 1])
def test_another_size_is_noticed(hosts: Hosts, change: int) -> None:
    handle = hosts.writer.put(bytes(5_000), owner="r", ttl_s=60)
    os.truncate(hosts.file(handle), 5_000 + change)
    message = unavailable(hosts.reader, handle)
    assert "instead of" in message or "shorter" in message


def test_an_inlined_blob_is_verified(tmp_path: Path) -> None:
    hosts = one_host(tmp_path, inline_bytes=100_000)
    handle = hosts.writer.put(bytes(60_000), owner="r", ttl_s=60)
    flipped = dataclasses.replace(handle, uri=handle.uri[:-8] + "B" + handle.uri[-7:])
    assert "checksum" in unavailable(hosts.reader, flipped)
    assert "instead of" in unavailable(hosts.reader, dataclasses.replace(handle, size_bytes=1))
    assert "base64" in unavailable(hosts.reader, dataclasses.replace(handle, uri="inline:é"))
    broken = unavailable(hosts.reader, dataclasses.replace(handle, uri=handle.uri[:-3]))
    assert "base64" in broken
    assert len(broken) < 200


FORGED = ["", "x", "http://x/y", "shm://", "shm://S/../../etc/passwd", "shm://S/{o}/../{n}", "shm://S/{o}/{n}/..",
          "shm://S/{o}/{n}\n", "shm://S/{o}/{n}%00", "file:///etc/passwd"]  # fmt: skip


@pytest.mark.parametrize("form", FORGED)
def test_a_forged_address_opens_nothing(hosts: Hosts, form: str) -> None:
    real = hosts.writer.put(b"x", owner="r", ttl_s=60)
    _, _, store, owner, name = real.uri.split("/")
    forged = form.format(o=owner, n=name).replace("//S/", f"//{store}/")
    unavailable(hosts.reader, dataclasses.replace(real, uri=forged))
    with pytest.raises(BlobUnavailable):
        hosts.reader.retain(dataclasses.replace(real, uri=forged), "r2")


def test_a_claimed_size_beyond_the_quota_is_not_allocated(
    other_host: tuple[Path, str], tmp_path: Path
) -> None:
    hosts = two_hosts(other_host, tmp_path)
    handle = hosts.writer.put(b"x", owner="r", ttl_s=60)
    assert "claims" in unavailable(hosts.reader, dataclasses.replace(handle, size_bytes=1 << 50))


def test_another_hosts_blob_needs_a_way_there(other_host: tuple[Path, str], tmp_path: Path) -> None:
    """Without a token, or without a server's address in the handle, it is unavailable at once."""
    hosts = two_hosts(other_host, tmp_path)
    handle = hosts.writer.put(b"x", owner="r", ttl_s=60)
    assert "nobody" in unavailable(hosts.reader, dataclasses.replace(handle, pull_url=""))
    assert "nobody" in unavailable(open_store(BlobSettings(dir=tmp_path)), handle)
    with pytest.raises(BlobUnavailable, match="another host"):
        hosts.reader.retain(handle, "r2")


PUT_FOR_EVER = """
import sys
from pathlib import Path
from stages.blobs import BlobSettings, open_store
store = open_store(BlobSettings(dir=Path(sys.argv[1])))
data = bytes(96 << 20)
while True:
    store.put(data, owner="victim", ttl_s=60)
    store.release("victim")
"""


def test_a_writer_killed_in_the_middle_leaves_only_what_the_sweep_takes(tmp_path: Path) -> None:
    """Kill -9 within a put: no handle names the part that was written, and it goes with its time."""
    hosts = one_host(tmp_path)
    writer = subprocess.Popen([sys.executable, "-c", PUT_FOR_EVER, str(tmp_path)], env=CHILD_ENV)
    try:
        eventually(lambda: any(0 < file.stat().st_size < 96 << 20 for file in hosts.files()), within_s=20)
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    after = hosts.writer.put(b"alive", owner="r", ttl_s=1000)
    hosts.writer.sweep(time.time() + 100)
    assert hosts.files() == [hosts.file(after)]
    assert bytes(hosts.reader.get(after)) == b"alive"


# Quota


def test_a_put_beyond_the_quota_is_refused_until_there_is_room(tmp_path: Path) -> None:
    hosts = one_host(tmp_path, quota_bytes=100_000)
    for owner in ("r1", "r2"):
        hosts.writer.put(bytes(40_000), owner=owner, ttl_s=60)
    with pytest.raises(BlobStoreFull):
        hosts.writer.put(bytes(40_000), owner="r3", ttl_s=60)
    assert len(hosts.files()) == 2
    hosts.writer.release("r1")
    eventually(lambda: fits(hosts.writer, 40_000), within_s=2)


def test_a_shared_blob_counts_once(tmp_path: Path) -> None:
    hosts = one_host(tmp_path, quota_bytes=100_000)
    first = hosts.writer.put(bytes(80_000), owner="r", ttl_s=60)
    for n in range(20):
        hosts.writer.retain(first, f"r{n}")
    fresh = open_store(BlobSettings(dir=tmp_path, quota_bytes=100_000))
    assert fits(fresh, 20_000)
    assert not fits(fresh, 20_000)


def test_other_processes_count_within_a_second_or_so(tmp_path: Path) -> None:
    hosts = one_host(tmp_path, quota_bytes=100_000)
    assert fits(hosts.reader, 1)
    hosts.writer.put(bytes(99_000), owner="r", ttl_s=60)
    eventually(lambda: not fits(hosts.reader, 2_000, keep=False), within_s=3)


def fits(store: BlobStore, size: int, keep: bool = True) -> bool:
    try:
        store.put(bytes(size), owner="fits", ttl_s=60)
    except BlobStoreFull:
        return False
    if not keep:
        store.release("fits")
    return True


# Many processes


@pytest.mark.parametrize("work", ["own", "shared"])
def test_processes_share_a_directory_without_locks(tmp_path: Path, work: str) -> None:
    """What an owner holds is there, puts never fail, and nothing is left in the end."""
    script = Path(__file__).with_name("blob_churn.py")
    arguments = [[str(tmp_path), str(seed), "400", work] for seed in (1, 2, 3)]
    children = [subprocess.Popen([sys.executable, script, *a], env=CHILD_ENV) for a in arguments]
    assert [child.wait(timeout=60) for child in children] == [0, 0, 0]
    hosts = one_host(tmp_path)
    assert hosts.files() == []
    hosts.writer.sweep(time.time())
    assert list((tmp_path / "owners").iterdir()) == []


class References(RuleBasedStateMachine):
    """Two processes' stores against a model that is a table of owners and their handles."""

    handles = Bundle("handles")

    def __init__(self) -> None:
        super().__init__()
        self.dir = self.fresh_dir()
        self.stores = [open_store(BlobSettings(dir=self.dir, inline_bytes=4)) for _ in range(2)]
        self.start_s = time.time()
        self.held: dict[str, tuple[str, float, bytes]] = {}

    fresh_dir: Callable[[], Path]

    @rule(target=handles, which=st.booleans(), data=st.binary(max_size=12), owner=st.sampled_from("ab"),
          ttl_s=st.sampled_from([100.0, 200.0]))  # fmt: skip
    def put(self, which: bool, data: bytes, owner: str, ttl_s: float) -> BlobHandle:
        handle = self.stores[which].put(data, owner=owner, ttl_s=ttl_s)
        self.held[handle.uri] = (owner, ttl_s, data)
        return handle

    @rule(target=handles, which=st.booleans(), handle=handles, owner=st.sampled_from("abc"))
    def retain(self, which: bool, handle: BlobHandle, owner: str) -> BlobHandle:
        if handle.uri not in self.held:
            with pytest.raises(BlobUnavailable):
                self.stores[which].retain(handle, owner)
            return handle
        further = self.stores[which].retain(handle, owner)
        if further != handle:
            self.held[further.uri] = (owner, handle.ttl_s, self.held[handle.uri][2])
        return further

    @rule(which=st.booleans(), owner=st.sampled_from("abc"))
    def release(self, which: bool, owner: str) -> None:
        self.stores[which].release(owner)
        self.forget(lambda held_by, _: held_by == owner)

    @rule(which=st.booleans(), age_s=st.sampled_from([50.0, 150.0]))
    def sweep(self, which: bool, age_s: float) -> None:
        self.stores[which].sweep(self.start_s + age_s)
        self.forget(lambda _, ttl_s: ttl_s < age_s)

    @rule(which=st.booleans(), handle=consumes(handles))
    def get(self, which: bool, handle: BlobHandle) -> None:
        if handle.uri in self.held:
            assert bytes(self.stores[which].get(handle)) == self.held[handle.uri][2]
        else:
            unavailable(self.stores[which], handle)

    @invariant()
    def one_file_per_reference(self) -> None:
        files = [path for path in (self.dir / "owners").rglob("*") if path.is_file()]
        assert len(files) == sum(not uri.startswith("inline:") for uri in self.held)

    def forget(self, gone: Callable[[str, float], bool]) -> None:
        kept = self.held.items()
        self.held = {uri: h for uri, h in kept if uri.startswith("inline:") or not gone(h[0], h[1])}


def test_references_follow_their_model(tmp_path_factory: pytest.TempPathFactory) -> None:
    class Here(References):
        def fresh_dir(self) -> Path:
            return tmp_path_factory.mktemp("model")

    Here.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
    Here.TestCase().runTest()
