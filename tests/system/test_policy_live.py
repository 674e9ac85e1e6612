"""A policy file edited while the system runs, and what it says of fetching."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from tests.system.harness import ROOT, System, data_url, digit_png, question, until
from tests.system.kit import log_lines, status, tercet

pytestmark = pytest.mark.slow  # real processes, for seconds each

POLICY = (ROOT / "policies" / "tiny.yaml").read_text()
LIVE_S = 2.0
"""An edit is in force after this long at most; polls below allow for a busy machine besides."""


class Images(BaseHTTPRequestHandler):
    """A host of images: one that answers, one that never ends, one that sends clients elsewhere."""

    def do_GET(self) -> None:
        if self.path.startswith("/to?"):
            self.send_response(302)
            self.send_header("location", self.path.removeprefix("/to?"))
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        image = digit_png(1)[0]
        if self.path == "/slow.png":
            with contextlib.suppress(OSError):
                while not self.server.stopping.wait(0.1):  # type: ignore[attr-defined]
                    self.wfile.write(image[:1])
        else:
            self.wfile.write(image)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def images() -> Iterator[str]:
    """Address of an image host on 127.0.0.1."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Images)
    server.stopping = threading.Event()  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.stopping.set()  # type: ignore[attr-defined]
    server.shutdown()


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("policy")
    (folder / "policy.yaml").write_text(POLICY)
    with System(folder, policy=folder / "policy.yaml") as running:
        yield running


@pytest.fixture
def edit(edited: System) -> Iterator[Callable[[str, str], None]]:
    """Replaces text in the policy file; the file is as it was after the test, and in force."""
    policy = edited.folder / "policy.yaml"

    def replace(old: str, new: str) -> None:
        assert old in policy.read_text()
        partial = policy.with_suffix(".new")
        partial.write_text(policy.read_text().replace(old, new))
        partial.replace(policy)

    yield replace
    known = looks(edited)
    if policy.read_text() != POLICY:
        policy.write_text(POLICY)
        until("the policy is as it was", lambda: looks(edited) > known)
    assert set(ready(edited)) == {"ready", "live_replicas"}


def looks(system: System) -> int:
    """Edits that were taken or refused so far."""
    return sum(e["message"].startswith("policy edit") for e in log_lines(system))


def ready(system: System) -> dict[str, Any]:
    return dict(httpx.get(f"{system.url}/ready", trust_env=False, verify=False).json())


def two_images() -> dict[str, Any]:
    return question("what digit is shown ?", *[data_url(digit_png(n)[0]) for n in (1, 2)])


def about(url: str) -> dict[str, Any]:
    return question("what digit is shown ?", url)


def test_an_edit_is_in_force_within_two_seconds(edited: System, edit: Callable[[str, str], None]) -> None:
    assert edited.post(two_images()).status_code == 200
    started_s = time.monotonic()
    edit("admission: {queue_s: 10}", "admission: {queue_s: 10, limits: {images: 1}}")
    until("refused", lambda: edited.post(two_images()).status_code == 400)
    assert time.monotonic() - started_s < LIVE_S + 1.0
    taken = until("a log line", lambda: [e for e in log_lines(edited) if e["message"] == "policy edit taken"])
    assert "images" in str(taken[-1]["changes"])


def test_a_bad_edit_keeps_the_last_good_policy_and_says_so(
    edited: System, edit: Callable[[str, str], None]
) -> None:
    """In the log, in /ready and in `tercet status`; the system goes on."""
    edit("queue_s: 10", "queue_z: 10")
    told = until("/ready tells", lambda: ready(edited).get("policy_error"))
    assert "queue_z" in told
    assert "queue_s" in told, "the nearest valid key"
    assert "last good policy" in told
    assert str(edited.folder) not in told, "/ready is open: no paths"
    assert ready(edited)["ready"] is True
    assert edited.post(two_images()).status_code == 200
    assert any("queue_z" in e["message"] for e in log_lines(edited) if e["level"] == "error")
    until("`tercet status` tells", lambda: "queue_z" in str(status(edited)["gateways"]), 10)
    assert "queue_z" in tercet("status", "--state", str(edited.state)).stdout


def test_a_gateway_that_restarts_during_a_bad_edit_goes_on_with_the_last_good_policy(
    edited: System, edit: Callable[[str, str], None]
) -> None:
    """It died for a reason of its own; the service is not to be down for as long as a typo lasts."""
    edit("queue_s: 10", "queue_s: 10, limits: {images: 1}")
    until("refused", lambda: edited.post(two_images()).status_code == 400)
    edit("queue_s: 10", "queue_z: 10")
    until("/ready tells", lambda: ready(edited).get("policy_error"))
    edited.restarted("gateway", edited.signal("gateway", signal.SIGKILL))
    assert "queue_z" in ready(edited)["policy_error"]
    assert edited.post(two_images()).status_code == 400
    assert edited.post(about(data_url(digit_png(1)[0]))).status_code == 200


def test_an_edit_that_needs_a_restart_is_named_and_waits(
    edited: System, edit: Callable[[str, str], None]
) -> None:
    edit("decode:  {engine: tiny, hardware: [cpu], batch: 32}", "decode: {engine: tiny, batch: 16}")
    told = until("/ready tells", lambda: ready(edited).get("policy_notice"))
    assert "stages.decode.batch" in told


def test_a_host_can_be_allowed_and_no_more_while_the_system_runs(
    edited: System, edit: Callable[[str, str], None], images: str
) -> None:
    """Until then its address is refused; then the digit is read from it."""
    body = about(f"{images}/digit.png")
    refusal = edited.post(body)
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (400, "address_not_allowed")
    edit(
        "admission: {queue_s: 10}",
        "admission: {queue_s: 10, fetch: {allow: [127.0.0.1/32], timeout_s: 0.5}}",
    )
    until("allowed", lambda: edited.post(body).status_code == 200)
    assert edited.answer(body) == edited.answer(about(data_url(digit_png(1)[0])))
    slow_host_is_given_up(edited, images)
    redirects_are_checked(edited, images)
    edit(", fetch: {allow: [127.0.0.1/32], timeout_s: 0.5}", "")
    until("refused again", lambda: edited.post(body).status_code == 400, LIVE_S + 1.0)


def slow_host_is_given_up(edited: System, images: str) -> None:
    started_s = time.monotonic()
    refusal = edited.post(about(f"{images}/slow.png"))
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (400, "url_timeout")
    assert 0.4 < time.monotonic() - started_s < 2.0


def redirects_are_checked(edited: System, images: str) -> None:
    """One that stays on the allowed host is followed; one to another private address is not."""
    assert edited.post(about(f"{images}/to?/digit.png")).status_code == 200
    for target in (
        f"http://127.0.0.2:{edited.port}/health",
        "http://169.254.169.254/latest/",
        "http://[::1]/",
    ):
        refusal = edited.post(about(f"{images}/to?{target}"))
        assert (refusal.status_code, refusal.json()["error"]["code"]) == (400, "address_not_allowed"), target
    endless = edited.post(about(f"{images}/to?" * 6 + "/digit.png"))
    assert endless.status_code == 400


def test_an_entry_that_is_no_host_is_a_bad_edit(edited: System, edit: Callable[[str, str], None]) -> None:
    """And the watcher lives on."""
    edit("admission: {queue_s: 10}", "admission: {queue_s: 10, fetch: {allow: ['300.1.2.3']}}")
    assert "300.1.2.3" in until("/ready tells", lambda: ready(edited).get("policy_error"))


def test_ready_is_a_503_while_a_stage_has_no_replica(edited: System) -> None:
    """And says which; requests meanwhile get a 503 with Retry-After, or wait, but none gets lost."""
    old = edited.signal("decode", signal.SIGKILL)
    body = until("not ready", lambda: _not_ready(edited))
    assert body["live_replicas"]["decode"] == 0
    refusal = edited.post(about(data_url(digit_png(1)[0])))
    if refusal.status_code != 200:
        assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "no_replica")
        assert int(refusal.headers["retry-after"]) >= 1
    edited.restarted("decode", old)
    assert edited.answer(two_images())


def _not_ready(system: System) -> dict[str, Any] | None:
    response = httpx.get(f"{system.url}/ready", trust_env=False, verify=False)
    return dict(response.json()) if response.status_code == 503 else None
