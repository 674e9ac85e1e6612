"""Every accepted request ends exactly once, whatever is killed."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from cli.child import CRASH_LOOP
from stages.blobs import default_dir
from tests.fakes.files import files_under
from tests.system.harness import Stream, System, digit_question, streams, until
from tests.system.kit import status
from workers.replica import EXIT_STEP_HUNG

pytestmark = pytest.mark.slow  # real processes, for seconds each

BODIES = [digit_question(index % 24) for index in range(32)]


def whole(results: list[Stream | BaseException]) -> list[str]:
    """Return the texts; each must be complete and come once."""
    for result in results:
        assert isinstance(result, Stream), result
        assert (result.status, result.error, result.done, len(result.ends)) == (200, None, True, 1), result
    return [result.text for result in results if isinstance(result, Stream)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[System, list[str]]]:
    """A system with two slow replicas of each stage, and what it says when nobody disturbs it."""
    slow = {"encode": 0.1, "prefill": 0.1, "decode": 0.01}
    folder = tmp_path_factory.mktemp("faults")
    with System(folder, replicas="encode=2,prefill=2,decode=2", slow=slow) as system:
        yield system, whole(streams(system, BODIES))


@pytest.fixture
def system(shared: tuple[System, list[str]]) -> System:
    """The shared system, after it has recovered from the test before."""
    system = shared[0]
    until("every replica is live", lambda: len(system.redis().zrange("tercet:replicas", 0, -1)) == 6)
    until("nothing runs", lambda: not system.redis().keys("tercet:credits:*"))
    return system


@pytest.fixture
def undisturbed(shared: tuple[System, list[str]]) -> list[str]:
    return shared[1]


@pytest.mark.parametrize("stage", ["encode", "prefill", "decode"])
def test_streams_survive_the_death_of_a_worker(system: System, undisturbed: list[str], stage: str) -> None:
    """32 streams, a worker killed while it works on some: the texts are those of an undisturbed run."""
    killed = 0

    def kill() -> None:
        nonlocal killed
        until("work in progress", lambda: busy(system, stage) >= 2)
        killed = system.signal(stage, signal.SIGKILL)

    assert whole(streams(system, BODIES, kill)) == undisturbed
    assert killed
    until("credits given back", lambda: not system.redis().keys("tercet:credits:*"))
    until("requests forgotten", lambda: not system.redis().keys("tercet:request:*"))


def busy(system: System, stage: str) -> int:
    store = system.redis()
    name = system.processes(stage)[0]["boot_id"]
    return int(store.hlen(f"tercet:credits:{name}"))


def test_a_killed_gateway_frees_what_its_clients_held(system: System) -> None:
    """Connections close; credits, requests, reply streams and blobs of the dead gateway are gone."""
    idle = system.keys()

    def kill() -> None:
        until("work in progress", lambda: busy(system, "decode") >= 4)
        pid = system.signal("gateway", signal.SIGKILL)
        system.restarted("gateway", pid)

    results = streams(system, BODIES[:16], kill)
    assert any(isinstance(result, httpx.TransportError) for result in results)
    until("credits given back", lambda: not system.redis().keys("tercet:credits:*"))
    until("requests forgotten", lambda: not system.redis().keys("tercet:request*"))
    assert system.answer(BODIES[0])
    until("keys at their baseline", lambda: system.keys() == idle)
    until("no blob is left", lambda: not blobs(system))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_streams_survive_a_restart_of_redis(
    system: System, undisturbed: list[str], number: signal.Signals
) -> None:
    def kill() -> None:
        until("work in progress", lambda: busy(system, "decode") >= 4)
        pid = system.signal("redis", number)
        system.restarted("redis", pid)

    assert whole(streams(system, BODIES, kill)) == undisturbed


@pytest.mark.parametrize("outage_s", [4.0, 8.0])
def test_a_frozen_redis_fences_nobody(tmp_path: Path, outage_s: float) -> None:
    """Redis stands still for longer than a lease: when it goes on, so does everybody; nobody is restarted."""
    with System(tmp_path, slow={"decode": 0.02}) as system:
        undisturbed = whole(streams(system, BODIES))

        def freeze() -> None:
            until("work in progress", lambda: busy(system, "decode") >= 4)
            pid = system.signal("redis", signal.SIGSTOP)
            time.sleep(outage_s)  # the outage itself
            os.kill(pid, signal.SIGCONT)

        assert whole(streams(system, BODIES, freeze)) == undisturbed
        assert all(process["restarts"] == 0 for process in system.supervisor()["processes"])


def test_one_poisonous_request_harms_no_other(tmp_path: Path) -> None:
    """One of 32 crashes its engine: it gets `poison_request`, the others whole answers; at most 3 crashes."""
    poison = {"stage": "decode", "seed": 666}
    with System(tmp_path, replicas="decode=2", slow={"decode": 0.002}, poison=poison) as system:
        bodies = [*BODIES[:31], digit_question(0, seed=666)]
        *good, bad = streams(system, bodies)
        assert isinstance(bad, Stream)
        assert (bad.status, bad.error["code"]) == (500, "poison_request")
        whole(good)
        assert sum(process["restarts"] for process in system.processes("decode")) <= 3


def test_kills_from_outside_count_against_nobody(tmp_path: Path) -> None:
    """A request whose replica is killed three times, while it is alone there, is answered all the same."""
    with System(tmp_path, slow={"prefill": 1.0}) as system:

        def kill() -> None:
            for _ in range(3):
                until("prefill has it", lambda: busy(system, "prefill"))
                system.restarted("prefill", system.signal("prefill", signal.SIGKILL))

        whole(streams(system, BODIES[:1], kill))
        assert system.processes("prefill")[0]["restarts"] == 3


def test_a_request_that_hangs_engines_is_found_like_one_that_crashes_them(tmp_path: Path) -> None:
    """The watchdog ends the process whose step hangs; two such ends alone convict."""
    poison = {"stage": "prefill", "seed": 666, "hang": True}
    with System(tmp_path, replicas="prefill=2", poison=poison) as system:
        good, bad = streams(system, [BODIES[0], digit_question(0, seed=666)])
        assert isinstance(bad, Stream)
        assert (bad.status, bad.error["code"]) == (500, "poison_request")
        whole([good])
        assert {process["last_exit"] for process in system.processes("prefill")} == {EXIT_STEP_HUNG}


def test_quick_deaths_in_a_row_are_shown_as_a_crash_loop(system: System) -> None:
    for _ in range(CRASH_LOOP):
        system.restarted("encode", system.signal("encode", signal.SIGKILL))
    assert status(system)["replicas"][0]["state"] == "crash-loop"


def test_a_frozen_worker_that_wakes_doubles_nothing(system: System, undisturbed: list[str]) -> None:
    """SIGSTOP, fencing, SIGCONT: the texts are those of an undisturbed run, and the ghost is replaced."""
    frozen, retries = 0, retried(system)

    def freeze() -> None:
        nonlocal frozen
        until("work in progress", lambda: busy(system, "decode") >= 4)
        name = system.processes("decode")[0]["boot_id"]
        frozen = system.signal("decode", signal.SIGSTOP)
        stopped_s = time.monotonic()
        until("fenced", lambda: system.redis().zscore("tercet:replicas", name) is None)
        assert time.monotonic() - stopped_s <= 3.0
        until("its work begins elsewhere", lambda: retried(system) > retries)
        system.signal("decode", signal.SIGCONT)

    assert whole(streams(system, BODIES, freeze)) == undisturbed
    system.restarted("decode", frozen)


def registered_again(system: System, stage: str, which: int, old: str) -> bool:
    new = system.processes(stage)[which]["boot_id"]
    return new != old and system.redis().zscore("tercet:replicas", new) is not None


def blobs(system: System) -> list[Path]:
    return files_under(default_dir(str(system.port)) / "owners")


def test_a_worker_told_to_stop_finishes_its_work_first(system: System, undisturbed: list[str]) -> None:
    """SIGTERM under load: it takes nothing new, loses nothing and exits 0."""
    pid, retries = 0, retried(system)

    def stop() -> None:
        nonlocal pid
        until("work in progress", lambda: busy(system, "decode") >= 4)
        pid = system.signal("decode", signal.SIGTERM)

    assert whole(streams(system, BODIES, stop)) == undisturbed
    system.restarted("decode", pid)
    assert system.processes("decode")[0]["last_exit"] == 0
    assert retried(system) == retries


def retried(system: System) -> int:
    return (system.state / "logs" / "gateway.log").read_text().count(" retried: ")


def vanish(blob: Path) -> None:
    blob.unlink(missing_ok=True)


def rot(blob: Path) -> None:
    """Write over its middle; a blob that was released meanwhile stays gone."""
    with contextlib.suppress(FileNotFoundError), blob.open("r+b") as file:
        file.seek(blob.stat().st_size // 2)
        file.write(b"rot")


@pytest.mark.parametrize("harm", [vanish, rot])
def test_lost_and_corrupt_blobs_are_made_again(
    system: System, undisturbed: list[str], harm: Callable[[Path], None]
) -> None:
    """Every blob is harmed while requests are under way: stages run again, texts are the same."""
    retries = retried(system)

    def vandalise() -> None:
        until("blobs", lambda: len(blobs(system)) >= 8)
        for _ in range(5):
            for blob in blobs(system):
                harm(blob)

    assert whole(streams(system, BODIES, vandalise)) == undisturbed
    assert retried(system) > retries


@pytest.mark.timeout(900)
def test_a_hundred_kills_leave_nothing_behind(tmp_path: Path) -> None:
    """100 workers killed under load: every request is answered, Redis's keys are at their baseline."""
    with System(tmp_path, replicas="encode=2,prefill=2,decode=2", slow={"decode": 0.005}) as system:
        expected = whole(streams(system, BODIES))
        until("requests forgotten", lambda: not system.redis().keys("tercet:request*"))
        idle = system.keys()
        kills = 0
        victims = [(stage, which) for stage in ("decode", "prefill", "encode") for which in (0, 1)]

        def massacre() -> None:
            nonlocal kills
            for _ in range(10):
                stage, which = victims[kills % len(victims)]
                process = system.processes(stage)[which]
                if process["pid"]:
                    os.kill(process["pid"], signal.SIGKILL)
                    kills += 1
                until("registered again", partial(registered_again, system, stage, which, process["boot_id"]))

        while kills < 100:
            assert whole(streams(system, BODIES, massacre)) == expected
        until("keys at their baseline", lambda: system.keys() == idle)
        until("no blob is left", lambda: not blobs(system))
