"""What goes wrong in engine servers under load: every request is answered, and nothing is kept of it."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import httpx
import pytest

from stages.emulator.config import EmulatorConfig, Role
from stages.types import Stage
from tests.fakes.emulator import Emulated, emulated
from tests.stages.emulator.kit import chat, image, nothing_left
from tests.system.harness import ROOT, System, until
from tests.system.kit import log_lines
from tests.system.served import CHAT, events, said

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

E, P, D = Stage
REQUESTS, AT_ONCE = 24, 8
BODIES = [
    chat(f"what is {n}", *[image(9 + n)] * (n % 3), model="tiny", max_tokens=16, return_token_ids=False)
    for n in range(REQUESTS)
]
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
Engines = dict[Stage, list[Emulated]]


class Answer(NamedTuple):
    """What is said, and in how many tokens: the last may begin a character that is not shown."""

    text: str
    tokens: int

    @staticmethod
    def of(body: dict[str, Any]) -> "Answer":
        """Return that of an answer which is no stream."""
        return Answer(body["choices"][0]["message"]["content"], body["usage"]["completion_tokens"])


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """Two of each stage."""
    folder = tmp_path_factory.mktemp("embeddings")
    with ExitStack() as running:
        yield {
            stage: [
                running.enter_context(
                    emulated(
                        EmulatorConfig(
                            role=Role(stage),
                            ec_dir=str(folder),
                            model="tiny",
                            max_model_len=1024,
                            lease_s=5.0,
                        )
                    )
                )
                for _ in range(2)
            ]
            for stage in Stage
        }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Answer]]:
    """What one engine says to all bodies."""
    folder = tmp_path_factory.mktemp("own")
    config = EmulatorConfig(role=Role.AGGREGATED, ec_dir=str(folder), model="tiny", max_model_len=1024)
    with emulated(config) as alone:
        yield [Answer.of(alone.chat(body).json()) for body in BODIES]


@pytest.fixture(scope="module")
def served(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    addresses = ",".join(f"{stage}={engine.url}" for stage in Stage for engine in engines[stage])
    folder = tmp_path_factory.mktemp("served")
    policy = folder / "patient.yaml"
    shipped = (ROOT / "policies" / "vllm-tiny.yaml").read_text()
    policy.write_text(shipped.replace("{queue_s: 10}", "{queue_s: 60, deadline_s: 200}"))
    with System(folder, policy=policy, options=("--engines", addresses)) as system:
        yield system


@pytest.fixture
def sound(engines: Engines) -> Iterator[None]:
    """Faults end with the test."""
    yield
    for each in engines.values():
        for engine in each:
            engine.set_faults(hang=False, error_rate=0, drop_after=None, expire_lease=False)
            engine.set_faults(evict_encoder_cache=False, wrong_hash=False, drift=False)


def answers(system: System) -> list[Answer]:
    """Ask everything, some at once, every other as a stream."""

    async def run() -> list[Answer]:
        turns = asyncio.Semaphore(AT_ONCE)
        async with httpx.AsyncClient(
            base_url=system.url, timeout=200.0, trust_env=False, verify=False
        ) as client:

            async def ask(number: int, body: dict[str, Any]) -> Answer:
                stream = number % 2 == 1
                async with turns:
                    answer = await client.post(CHAT, json=body | (STREAM if stream else {}))
                assert answer.status_code == 200, answer.text
                if stream:
                    assert answer.text.endswith("data: [DONE]\n\n"), answer.text
                    return Answer(said(answer.text), events(answer.text)[-1]["usage"]["completion_tokens"])
                return Answer.of(answer.json())

            return await asyncio.gather(*(ask(n, body) for n, body in enumerate(BODIES)))

    return asyncio.run(run())


FAULTS: dict[str, tuple[Stage, dict[str, Any]]] = {
    "encode fails": (E, {"error_rate": 1}),
    "prefill fails": (P, {"error_rate": 1}),
    "decode fails": (D, {"error_rate": 1}),
    "decode fails now and then": (D, {"error_rate": 0.3, "error_status": 503}),
    "encode breaks off": (E, {"drop_after": 0}),
    "prefill breaks off": (P, {"drop_after": 0}),
    "decode breaks off in the midst": (D, {"drop_after": 3}),
    "leases end at once": (P, {"expire_lease": True}),
    "embeddings are gone": (P, {"evict_encoder_cache": True}),
    "embeddings go by another name": (E, {"wrong_hash": True}),
}


@pytest.mark.parametrize(("stage", "fault"), FAULTS.values(), ids=FAULTS)
def test_what_one_server_does_wrong_another_makes_good(
    served: System, engines: Engines, whole: list[Answer], sound: None, stage: Stage, fault: dict[str, Any]
) -> None:
    engines[stage][0].set_faults(**fault)
    assert answers(served) == whole
    for each in Stage:
        for engine in engines[each]:
            until(f"{each} holds nothing", lambda engine=engine: nothing_left(engine))


def test_answers_that_would_not_come_out_the_same_are_gone_on_with(
    served: System, engines: Engines, whole: list[Answer], sound: None
) -> None:
    """One decode server breaks answers off, and none says the same twice."""
    for engine in engines[D]:
        engine.set_faults(drift=True)
    engines[D][0].set_faults(drop_after=3)
    found = answers(served)
    assert found != whole
    assert [answer.tokens for answer in found] == [answer.tokens for answer in whole]


@pytest.mark.parametrize("stage", Stage)
def test_a_server_that_falls_silent_is_given_up_for_another(
    served: System, engines: Engines, whole: list[Answer], sound: None, stage: Stage
) -> None:
    """After half a minute without a byte."""
    engines[stage][0].set_faults(hang=True)
    assert answers(served) == whole


@pytest.fixture
def hedged(served: System) -> Iterator[None]:
    """For as long as the test lasts, a hop of half a second goes to another replica too."""
    plain = (served.state.parent / "patient.yaml").read_text()
    edit(served, plain.replace("    batch: 16\n", "    batch: 16\n    hedge_s: 0.5\n", 2))
    yield
    edit(served, plain)


def edit(system: System, policy: str) -> None:
    def taken() -> int:
        return sum(line["message"] == "policy edit taken" for line in log_lines(system))

    before = taken()
    (system.state.parent / "patient.yaml").write_text(policy)
    until("the edit is taken", lambda: taken() > before)


@pytest.mark.parametrize("stage", [E, P])
def test_a_second_server_is_asked_beside_one_that_takes_long(
    served: System, engines: Engines, whole: list[Answer], sound: None, hedged: None, stage: Stage
) -> None:
    """Long before half a minute is over."""
    engines[stage][0].set_faults(hang=True)
    began_s = time.monotonic()
    assert answers(served) == whole
    assert time.monotonic() - began_s < 25.0
    for engine in engines[stage]:
        until(f"{stage} holds nothing", lambda engine=engine: nothing_left(engine))
