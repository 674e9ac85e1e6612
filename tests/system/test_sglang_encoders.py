"""`tercet up` in front of emulated SGLang servers whose encoders are called by those that prefill."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from stages.emulator.config import EmulatorConfig, EngineTiming, Kind, Role
from stages.free_ports import free_port
from stages.types import Stage
from tests.fakes.emulator import Emulated, emulated
from tests.stages.emulator.kit import chat, image, nothing_left
from tests.system.harness import ROOT, System, until
from tests.system.served import ask

POLICY = ROOT / "policies" / "examples" / "sglang-epd.yaml"
BODIES = [
    chat(f"question {n}", *[image(n)] * (n % 3), model="tiny", return_token_ids=None) for n in range(16)
]
MEDIA = sum(n % 3 for n in range(16))

pytestmark = pytest.mark.slow


class Encoder:
    """An emulated encoder in a process of its own, which can be killed and started again at its address."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        options = ["--engine", "sglang", "--stage", "encode", "--model", "tiny", "--port", str(self.port)]
        options += ["--profile", "internvl-26b", "--hardware", "a100x1", "--speed-up", "20"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cli", "emulate", "--json", *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        json.loads(self._process.stdout.readline())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def set_faults(self, **faults: float) -> None:
        httpx.post(self.url + "/emulator/faults", json=faults, trust_env=False).raise_for_status()

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = httpx.get(self.url + "/emulator/state", trust_env=False).json()
        return state


class Servers:
    """Two of each stage."""

    def __init__(self, running: ExitStack) -> None:
        timing = EngineTiming(prefill_s=lambda tokens: 0.01, decode_s=lambda sequences, tokens: 0.005)

        def start(role: Role, *, language_only: bool) -> Emulated:
            config = EmulatorConfig(
                kind=Kind.SGLANG, role=role, model="tiny", lease_s=300.0, language_only=language_only
            )
            return running.enter_context(emulated(config, timing))

        self.encode = [Encoder() for _ in range(2)]
        for encoder in self.encode:
            running.callback(encoder.kill)
        self.prefill = [start(Role.PREFILL, language_only=True) for _ in range(2)]
        self.decode = [start(Role.DECODE, language_only=False) for _ in range(2)]

    def addresses(self) -> str:
        by_stage = {Stage.ENCODE: self.encode, Stage.PREFILL: self.prefill, Stage.DECODE: self.decode}
        return ",".join(f"{stage}={server.url}" for stage, servers in by_stage.items() for server in servers)

    def lists(self) -> list[set[str]]:
        """Which encoders each server that prefills calls."""
        lists = [server.address.list_url + "/list_encoder_urls" for server in self.prefill]
        return [set(httpx.get(url, trust_env=False).json()["encoder_urls"]) for url in lists]

    def until_they_call(self, *encoders: Encoder) -> None:
        wanted = [{encoder.url for encoder in encoders}] * len(self.prefill)
        until("the lists are right", lambda: self.lists() == wanted)

    def until_idle(self) -> None:
        for server in (*self.prefill, *self.decode, *self.encode):
            until(f"{server.url} holds nothing", lambda server=server: nothing_left(server))


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with ExitStack() as running:
        yield Servers(running)


@pytest.fixture(scope="module")
def whole() -> Iterator[list[str]]:
    """What one server says to all bodies."""
    with emulated(EmulatorConfig(kind=Kind.SGLANG, role=Role.AGGREGATED, model="tiny")) as alone:
        yield [alone.chat(body).json()["choices"][0]["message"]["content"] for body in BODIES]


@pytest.fixture(scope="module")
def served(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    options = ("--engines", servers.addresses(), "--metrics-port", str(free_port()))
    with System(tmp_path_factory.mktemp("sglang"), policy=POLICY, options=options) as system:
        servers.until_they_call(*servers.encode)
        yield system


def answers(system: System, rounds: int = 1) -> list[str]:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda body: ask(system, body, timeout_s=60.0), BODIES * rounds))
    assert [answer.status_code for answer in found] == [200] * len(BODIES) * rounds
    return [answer.json()["choices"][0]["message"]["content"] for answer in found]


def beside(pool: ThreadPoolExecutor, system: System, rounds: int) -> Future[list[str]]:
    """Ask while the test goes on; return once the first answers are there."""
    before = answered(system)
    going_on = pool.submit(answers, system, rounds)
    until("load is there", lambda: answered(system) > before + 4)
    return going_on


def metrics(system: System) -> str:
    port = system.options[system.options.index("--metrics-port") + 1]
    return httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text


def counted(system: System, name: str, stage: Stage) -> float:
    lines = [line for line in metrics(system).splitlines() if line.startswith(name) and f'"{stage}"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def answered(system: System) -> int:
    """Answers so far; each has 24 tokens."""
    return int(counted(system, "tercet:stage_tokens_total", Stage.DECODE)) // 24


def retries(system: System) -> float:
    """Hops tried again so far: what a server that failed leaves behind, however whole the answers are."""
    return sum(counted(system, "tercet:stage_retries", stage) for stage in Stage)


def busy_s(system: System, stage: Stage) -> float:
    """Seconds in which a stage's replicas say they had work."""
    client = system.redis()
    keys = [key for key in client.keys("tercet:replica:*") if f":{stage}-" in key]
    return sum(json.loads(client.hget(key, "load") or "{}").get("busy_s", 0.0) for key in keys)


def test_three_stages_say_what_one_server_says(served: System, servers: Servers, whole: list[str]) -> None:
    """Each medium is encoded once, by an encoder, and each of them has some of the work."""
    before = [encoder.state()["encoder"]["encoded"] for encoder in servers.encode]
    counted_before = counted(served, "tercet:stage_tokens_total", Stage.ENCODE)
    assert answers(served) == whole
    more = [
        encoder.state()["encoder"]["encoded"] - n for encoder, n in zip(servers.encode, before, strict=True)
    ]
    assert sum(more) == MEDIA and all(more)
    servers.until_idle()
    assert counted(served, "tercet:stage_tokens_total", Stage.ENCODE) > counted_before
    until("control knows that encoders had work", lambda: busy_s(served, Stage.ENCODE) > 0.0)


def test_an_encoder_that_is_killed_is_called_no_more_until_it_is_back(
    served: System, servers: Servers, whole: list[str]
) -> None:
    stays, goes = servers.encode
    before = retries(served)
    with ThreadPoolExecutor(1) as pool:
        going_on = beside(pool, served, 4)
        goes.kill()
        servers.until_they_call(stays)
        assert going_on.result() == whole * 4
    assert retries(served) > before
    goes.start()
    servers.until_they_call(stays, goes)
    assert answers(served) == whole
    servers.until_idle()


def test_an_encoder_that_drains_is_called_no_more_and_fails_nobody(
    served: System, servers: Servers, whole: list[str]
) -> None:
    """Its server goes on, so whatever it was asked before is done."""
    before = retries(served)
    with ThreadPoolExecutor(1) as pool:
        going_on = beside(pool, served, 4)
        old = served.signal("encode", signal.SIGTERM, 0)
        until(
            "it is called no more", lambda: all(servers.encode[0].url not in urls for urls in servers.lists())
        )
        served.restarted("encode", old, 0)
        servers.until_they_call(*servers.encode)
        assert going_on.result() == whole * 4
    assert retries(served) == before
    servers.until_idle()


def test_a_client_that_leaves_while_its_media_are_encoded_leaves_nothing(
    served: System, servers: Servers, whole: list[str]
) -> None:
    """Encoders cannot be told to stop; what they make is for nobody, and others are served as before."""
    for encoder in servers.encode:
        encoder.set_faults(slow=200.0)
    try:
        with pytest.raises(httpx.ReadTimeout):
            ask(served, BODIES[2], timeout_s=1.0)
        assert not all(nothing_left(encoder) for encoder in servers.encode)
    finally:
        for encoder in servers.encode:
            encoder.set_faults(slow=1.0)
    servers.until_idle()
    assert answers(served) == whole
