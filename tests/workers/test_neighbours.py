"""Servers that prefill call the encoders that are registered, and an encoder drains behind them."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import pytest
import redis

from stages.engines import EngineRefused
from stages.types import EngineLoad, Stage
from tests.fakes.redis_process import RedisProcess
from workers.ledger import Neighbour, WorkerLedger, connect
from workers.neighbours import LOOK_S, SETTLE_S, Called, Others

HERE, THERE = "http://here:1", "http://there:1"


def replica(stage: Stage, url: str = "", *, draining: bool = False, calls: Iterable[str] = ()) -> Neighbour:
    return Neighbour(stage=stage, peer_url=url, draining=draining, calls=frozenset(calls))


class FakeLedger:
    """A registry of one model."""

    def __init__(self, *replicas: Neighbour) -> None:
        self.there = list(replicas)

    def replicas(self, model: str) -> list[Neighbour]:
        return self.there if model == "m" else []


class FakePrefill:
    """Remembers whom it met."""

    def __init__(self, *meets: Stage) -> None:
        self.meets = frozenset(meets or {Stage.ENCODE})
        self.met: list[list[str]] = []

    def meet(self, stage: Stage, urls: Iterable[str]) -> None:
        self.met.append(list(urls))


class FakeEncoder:
    """Has so much in hand."""

    def __init__(self, in_hand: int = 0) -> None:
        self.in_hand = in_hand

    def load(self) -> EngineLoad:
        return EngineLoad(batch_size=self.in_hand)


def test_a_server_meets_the_encoders_that_take_work() -> None:
    """Neither those that drain nor other stages nor other models."""
    engine = FakePrefill()
    ledger = FakeLedger(
        replica(Stage.ENCODE, HERE),
        replica(Stage.ENCODE, THERE, draining=True),
        replica(Stage.DECODE, "http://decode:1"),
    )
    Others(engine, ledger, "m").meet()  # type: ignore[arg-type]
    Others(engine, ledger, "other").meet()  # type: ignore[arg-type]
    assert engine.met == [[HERE], []]


def test_one_that_calls_two_stages_meets_each() -> None:
    engine = FakePrefill(Stage.ENCODE, Stage.PREFILL)
    ledger = FakeLedger(replica(Stage.ENCODE, HERE), replica(Stage.PREFILL, THERE))
    Others(engine, ledger, "m").meet()  # type: ignore[arg-type]
    assert engine.met == [[HERE], [THERE]]


def test_a_server_is_told_of_no_address_that_it_could_not_call() -> None:
    """A worker of an older release registers none."""
    engine = FakePrefill()
    wrong = ["", "here:1", "http://:1", "http://[fd00::1", "http://here:None"]
    ledger = FakeLedger(*[replica(Stage.ENCODE, url) for url in (*wrong, HERE, "http://[fd00::1]:1")])
    Others(engine, ledger, "m").meet()  # type: ignore[arg-type]
    assert engine.met == [[HERE, "http://[fd00::1]:1"]]


class Drain:
    """A drain whose clock moves as it sleeps; `when` is done at those of its looks."""

    def __init__(self, encoder: FakeEncoder, ledger: FakeLedger, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        self.when: dict[float, object] = {}
        monkeypatch.setattr("workers.neighbours.time.monotonic", lambda: self.now_s)
        self._encoder = Called(encoder, ledger, "m", HERE, self._sleep)  # type: ignore[arg-type]

    def _sleep(self, seconds: float) -> None:
        self.now_s += seconds
        for at_s in [at_s for at_s in self.when if at_s <= self.now_s]:
            self.when.pop(at_s)()  # type: ignore[operator]

    def ends_s(self, deadline_s: float = 60.0) -> float:
        self._encoder.drain(deadline_s)
        return self.now_s


def test_an_encoder_that_nobody_calls_is_drained_once_that_is_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = FakeLedger(replica(Stage.PREFILL, calls=[THERE]))
    assert Drain(FakeEncoder(), ledger, monkeypatch).ends_s() == 2 * SETTLE_S


def test_it_waits_until_it_is_called_no_more_and_its_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, ledger = FakeEncoder(1), FakeLedger(replica(Stage.PREFILL, calls=[HERE, THERE]))
    drain = Drain(encoder, ledger, monkeypatch)
    drain.when[5.0] = ledger.there.clear
    drain.when[9.0] = lambda: setattr(encoder, "in_hand", 0)
    assert 9.0 <= drain.ends_s() <= 9.0 + LOOK_S


def test_it_waits_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, ledger = FakeEncoder(1), FakeLedger(replica(Stage.PREFILL, calls=[HERE]))
    assert Drain(encoder, ledger, monkeypatch).ends_s(4.0) <= 4.0 + LOOK_S
    assert Drain(encoder, ledger, monkeypatch).ends_s(1.0) == 1.0


class Enough(Exception):
    """All looks are over."""


class FailingPrefill(FakePrefill):
    """Fails as told, once for each error; None is no failure."""

    def __init__(self, *errors: Exception | None) -> None:
        super().__init__()
        self.errors = list(errors)

    def meet(self, stage: Stage, urls: Iterable[str]) -> None:
        if error := self.errors.pop(0):
            raise error
        super().meet(stage, urls)


def kept(engine: FailingPrefill, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the encoders of a server until it has nothing more to fail with."""

    def sleep(seconds: float) -> None:
        if not engine.errors:
            raise Enough

    monkeypatch.setattr("workers.neighbours.time.sleep", sleep)
    with pytest.raises(Enough):
        Others(engine, FakeLedger(replica(Stage.ENCODE, HERE)), "m").keep()  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [redis.ConnectionError("away"), EngineRefused("not now")])
def test_what_fails_is_tried_again(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """And all stays as it is meanwhile."""
    engine = FailingPrefill(error, None)
    kept(engine, monkeypatch)
    assert engine.met == [[HERE]]


def test_trouble_is_logged_when_it_comes_and_when_it_goes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "workers.neighbours")
    one, other = EngineRefused("one"), EngineRefused("other")
    kept(FailingPrefill(None, one, one, one, other, None, None, one), monkeypatch)
    assert [(record.levelname, record.getMessage().rpartition(" ")[2]) for record in caplog.records] == [
        ("WARNING", "one"),
        ("WARNING", "other"),
        ("INFO", "again"),
        ("WARNING", "one"),
    ]


def test_what_nobody_expects_ends_the_keeping(monkeypatch: pytest.MonkeyPatch) -> None:
    """And with it the process, see `Replica`: a list that nobody keeps names encoders that have gone."""
    engine = FailingPrefill(KeyError("stage"), None)
    with pytest.raises(KeyError):
        kept(engine, monkeypatch)


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisProcess]:
    with RedisProcess(tmp_path) as server:
        yield server


def test_the_registry_says_where_engines_are_and_whom_they_call(redis_server: RedisProcess) -> None:
    client = connect(redis_server.url)
    client.flushall()
    ledgers = {name: WorkerLedger(client, name, Stage.ENCODE) for name in ("e", "p", "other")}
    for name, stage, model in (("e", "encode", "m"), ("p", "prefill", "m"), ("other", "encode", "n")):
        facts = {"stage": stage, "model": model, "peer_url": f"http://{name}:1"}
        ledgers[name].register(msgspec.json.encode(facts), 1, 0)
    ledgers["p"].heartbeat(
        msgspec.json.encode(EngineLoad(encoders=("http://e:1",), prefills=("http://q:1",)))
    )
    ledgers["e"].drain()
    found = sorted(ledgers["p"].replicas("m"), key=lambda each: each.peer_url)
    assert found == [
        replica(Stage.ENCODE, "http://e:1", draining=True),
        replica(Stage.PREFILL, "http://p:1", calls=["http://e:1", "http://q:1"]),
    ]
