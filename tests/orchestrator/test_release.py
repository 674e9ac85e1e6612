"""When a request ends, every host that holds something of it gives it back."""

import logging
import socket
import threading
import time

import pytest

from orchestrator.release import BlobRelease
from stages.blob_http import BlobServer
from stages.blobs import BlobSettings, open_store
from stages.free_ports import free_port

TOKEN = "a token of the stack"


class Host:
    """A store behind a server."""

    def __init__(self, folder, token=TOKEN):
        self.server = BlobServer(folder, token)
        url = f"http://127.0.0.1:{self.server.port}"
        self.settings = BlobSettings(dir=folder, token=TOKEN, public_url=url)
        self.store = open_store(self.settings)

    def put(self, owner):
        return self.store.put(b"x", owner=owner, ttl_s=60).pull_url

    def owners(self):
        return len(list((self.settings.dir / "owners").iterdir()))


@pytest.fixture
def here(tmp_path):
    with (host := Host(tmp_path / "here")).server:
        yield host


@pytest.fixture
def there(tmp_path):
    with (host := Host(tmp_path / "there")).server:
        yield host


def test_a_request_is_released_on_every_host_that_its_handles_named(here, there):
    give_back = BlobRelease(here.store, here.settings)
    urls = {here.put("r"), there.put("r"), there.put("r")}
    there.put("other")
    give_back("r", urls)
    assert here.owners() == 0, "here at once"
    give_back.close()
    assert there.owners() == 1


def test_a_request_of_one_host_starts_no_thread(here):
    before = threading.active_count()
    BlobRelease(here.store, here.settings)("r", {here.put("r")})
    assert here.owners() == 0
    assert threading.active_count() == before


def test_the_caller_never_waits_for_another_host(here):
    """Nobody accepts at the address: a release takes its time-out, in a thread."""
    with socket.create_server(("127.0.0.1", 0), backlog=1) as deaf:
        give_back = BlobRelease(here.store, here.settings)
        start_s = time.monotonic()
        give_back("r", {f"http://127.0.0.1:{deaf.getsockname()[1]}/blobs/o/n"})
        assert time.monotonic() - start_s < 0.5
        give_back.close()


def test_a_host_that_fails_is_logged_and_left_alone_for_a_while(here, there, caplog):
    give_back = BlobRelease(here.store, here.settings)
    gone = f"http://127.0.0.1:{free_port()}/blobs/o/n"
    with caplog.at_level(logging.WARNING):
        give_back("r", {gone, there.put("r")})
        until(lambda: caplog.records and not there.owners())
        give_back("s", {gone, there.put("s")})
        until(lambda: not there.owners())
    give_back.close()
    assert caplog.text.count("left to its sweep") == 1


def test_a_token_that_is_refused_is_no_more_than_a_warning(here, tmp_path, caplog):
    with (stranger := Host(tmp_path / "stranger", token="another")).server:
        give_back = BlobRelease(here.store, here.settings)
        give_back("r", {stranger.put("r")})
        give_back.close()
        assert stranger.owners() == 1
    assert "401" in caplog.text


def until(check):
    deadline_s = time.monotonic() + 10.0
    while not check():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
