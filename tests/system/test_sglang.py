"""`tercet up` in front of emulated SGLang servers, prefill and decode, beside one that does both."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from stages.emulator.config import EmulatorConfig, EngineTiming, Kind, Role
from stages.types import Stage
from tests.fakes.emulator import Emulated, emulated
from tests.stages.emulator.kit import chat, image, nothing_left
from tests.system.harness import ROOT, System, until
from tests.system.served import CHAT, ask, said

POLICY = ROOT / "policies" / "examples" / "sglang-pd.yaml"
SPLIT = (Stage.PREFILL, Stage.DECODE)
BODIES = [
    chat(f"question {n}", *[image(n)] * (n % 3), model="tiny", return_token_ids=None) for n in range(16)
]
Engines = dict[Stage, list[Emulated]]

pytestmark = pytest.mark.slow


def sglang(role: Role, timing: EngineTiming | None = None) -> Any:
    config = EmulatorConfig(  # whose patience is SGLang's: what ends sooner was told
        kind=Kind.SGLANG, role=role, model="tiny", lease_s=300.0, max_model_len=2048
    )
    return emulated(config, timing)


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    """Two of each; their work takes some time, so that it can be left."""
    timing = EngineTiming(prefill_s=lambda tokens: 0.01, decode_s=lambda sequences, tokens: 0.005)
    with ExitStack() as running:
        yield {
            stage: [running.enter_context(sglang(Role(stage), timing)) for _ in range(2)] for stage in SPLIT
        }


@pytest.fixture(scope="module")
def whole() -> Iterator[list[str]]:
    """What one server says to all bodies."""
    with sglang(Role.AGGREGATED) as alone:
        yield [alone.chat(body).json()["choices"][0]["message"]["content"] for body in BODIES]


@pytest.fixture(scope="module")
def served(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    addresses = ",".join(f"{stage}={engine.url}" for stage in SPLIT for engine in engines[stage])
    with System(tmp_path_factory.mktemp("sglang"), policy=POLICY, options=("--engines", addresses)) as system:
        yield system


@pytest.fixture
def sound(engines: Engines) -> Iterator[None]:
    """Faults end with the test."""
    yield
    for engine in (*engines[Stage.PREFILL], *engines[Stage.DECODE]):
        engine.set_faults(error_rate=0, drop_after=None, slow=1)


def answers(system: System) -> list[str]:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda body: ask(system, body, timeout_s=60.0), BODIES))
    assert [answer.status_code for answer in found] == [200] * len(BODIES)
    return [answer.json()["choices"][0]["message"]["content"] for answer in found]


def until_idle(engines: Engines) -> None:
    for stage in SPLIT:
        for engine in engines[stage]:
            until(f"{stage} holds nothing", lambda engine=engine: nothing_left(engine))


def test_prefill_and_decode_meet_and_say_what_one_server_says(
    served: System, engines: Engines, whole: list[str]
) -> None:
    before = sum(engine.state()["fetches"] for engine in engines[Stage.DECODE])
    assert answers(served) == whole
    assert sum(engine.state()["fetches"] for engine in engines[Stage.DECODE]) == before + len(BODIES)
    until_idle(engines)


def test_a_stream_is_passed_on(served: System, whole: list[str]) -> None:
    stream = ask(served, BODIES[1] | {"stream": True, "stream_options": {"include_usage": True}})
    assert said(stream.text) == whole[1]
    assert stream.text.endswith("data: [DONE]\n\n") and '"usage":{' in stream.text


def test_what_a_server_refuses_the_client_is_told(served: System, engines: Engines) -> None:
    answer = ask(served, chat("word " * 3000, model="tiny"))
    assert answer.status_code == 400 and "context length" in answer.text
    until_idle(engines)


@pytest.mark.parametrize(
    ("stage", "fault"),
    [
        pytest.param(Stage.DECODE, {"error_rate": 1}, id="decode-fails"),
        pytest.param(Stage.DECODE, {"drop_after": 3}, id="decode-breaks-off"),
        pytest.param(Stage.PREFILL, {"error_rate": 1}, id="prefill-fails"),
    ],
)
def test_what_one_server_does_wrong_another_makes_good(
    served: System, engines: Engines, whole: list[str], sound: None, stage: Stage, fault: dict[str, Any]
) -> None:
    """Whoever waits for a server that failed is told so at once, and keeps nothing."""
    engines[stage][0].set_faults(**fault)
    assert answers(served) == whole
    until_idle(engines)


def test_a_client_that_leaves_frees_both_servers(served: System, engines: Engines) -> None:
    body = BODIES[0] | {"stream": True, "max_tokens": 1500}
    with httpx.stream(
        "POST", served.url + CHAT, json=body, timeout=30.0, trust_env=False, verify=False
    ) as response:
        next(response.iter_lines())
    until_idle(engines)


def test_a_client_that_leaves_while_decode_waits_stops_prefill_too(
    served: System, engines: Engines, sound: None
) -> None:
    for engine in engines[Stage.PREFILL]:
        engine.set_faults(slow=300.0)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(served.url + CHAT, json=BODIES[0], timeout=1.0, trust_env=False, verify=False)
    until_idle(engines)
