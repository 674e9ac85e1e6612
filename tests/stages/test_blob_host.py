"""What a process is told of its host's blobs, and the one that keeps them."""

import time

import msgspec
import pytest

from stages import blob_host
from stages.blob_host import BlobConfig, BlobKeeper
from stages.blobs import BlobSettings, open_store
from stages.engines import BlobUnavailable
from stages.free_ports import free_port
from tests.fakes.files import files_under


def config(directory, **fields):
    return BlobConfig(directory=str(directory), inline_bytes=0, **fields)


@pytest.fixture
def keepers():
    """Keepers to be stopped when the test ends."""
    running = []
    yield running
    for keeper in running:
        keeper.stop()


@pytest.mark.parametrize(
    ("fields", "public_url"),
    [
        pytest.param({}, None, id="a-host-alone"),
        pytest.param({"listen": "10.0.0.1:7070"}, "http://10.0.0.1:7070", id="the-keeper"),
        pytest.param({"listen": "[fd00::1]:7070"}, "http://[fd00::1]:7070", id="ipv6"),
        pytest.param({"public_url": "http://node-1:7070"}, "http://node-1:7070", id="beside-the-keeper"),
        pytest.param(
            {"listen": "0.0.0.0:7070", "public_url": "https://x/y"}, "https://x/y", id="behind-a-proxy"
        ),
    ],
)
def test_handles_say_where_other_hosts_reach_the_keeper(tmp_path, fields, public_url):
    assert config(tmp_path, **fields).settings().public_url == public_url


@pytest.mark.parametrize(
    "listen",
    ["7070", "10.0.0.1:", "10.0.0.1:http", "10.0.0.1:0", "10.0.0.1:70000", "0.0.0.0:7070", "[::]:7070"],
)
def test_an_address_that_others_could_not_use_is_refused(tmp_path, listen):
    with pytest.raises(ValueError, match="blobs"):
        config(tmp_path, listen=listen).settings()


def test_a_keeper_without_a_token_is_refused(tmp_path):
    told = config(tmp_path, listen=f"127.0.0.1:{free_port()}")
    with pytest.raises(ValueError, match="token"):
        BlobKeeper(open_store(told.settings()), told)


def test_the_default_quota_is_one_figure(tmp_path):
    assert config(tmp_path).settings().quota_bytes == BlobSettings(dir=tmp_path).quota_bytes


def test_it_travels_as_json(tmp_path):
    told = config(tmp_path, token="secret", listen="10.0.0.1:7070")
    assert msgspec.json.decode(msgspec.json.encode(told), type=BlobConfig) == told


def test_another_host_reads_what_the_keeper_serves(tmp_path, keepers):
    told = config(tmp_path / "a", token="secret", listen=f"127.0.0.1:{free_port()}")
    store = open_store(told.settings())
    keepers.append(BlobKeeper(store, told))
    keepers[0].start()
    handle = store.put(b"tensor", owner="r", ttl_s=60)
    assert bytes(open_store(config(tmp_path / "b", token="secret").settings()).get(handle)) == b"tensor"
    with pytest.raises(BlobUnavailable, match="unauthorised"):
        open_store(config(tmp_path / "c", token="guessed").settings()).get(handle)


def test_a_keeper_sweeps_what_is_past_its_time(tmp_path, keepers, monkeypatch):
    monkeypatch.setattr(blob_host, "SWEEP_S", 0.01)
    told = config(tmp_path)
    store = open_store(told.settings())
    short, long = store.put(b"x", owner="r", ttl_s=0.05), store.put(b"y", owner="r", ttl_s=60)
    keepers.append(BlobKeeper(store, told))
    keepers[0].start()
    deadline_s = time.monotonic() + 10.0
    while len(files_under(tmp_path / "owners")) > 1:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    assert bytes(store.get(long)) == b"y"
    with pytest.raises(BlobUnavailable, match="missing"):
        store.get(short)


class Stubborn:
    """A store whose first sweep fails."""

    def __init__(self):
        self.sweeps = 0

    def sweep(self, now_unix_s):
        self.sweeps += 1
        if self.sweeps == 1:
            raise OSError("input/output error")
        return 0


def test_a_failed_sweep_is_tried_again(tmp_path, keepers, monkeypatch):
    monkeypatch.setattr(blob_host, "SWEEP_S", 0.01)
    store = Stubborn()
    keepers.append(BlobKeeper(store, config(tmp_path)))
    keepers[0].start()
    deadline_s = time.monotonic() + 10.0
    while store.sweeps < 3:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
