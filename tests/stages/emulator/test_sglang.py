"""Emulated SGLang: prefill and decode that meet in a room, in its words."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from stages.emulator.config import EmulatorConfig, EngineTiming, Kind, Role
from tests.fakes.emulator import Emulated, emulated
from tests.stages.emulator.kit import chat, image, nothing_left, until

BODY = chat("what is", image(3), max_tokens=20, return_token_ids=None)


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[Role, Emulated]]:
    with pair() as engines, emulated(config(Role.AGGREGATED)) as alone:
        yield engines | {Role.AGGREGATED: alone}


def config(role: Role, **fields: Any) -> EmulatorConfig:
    return EmulatorConfig(kind=Kind.SGLANG, role=role, **fields)


@contextmanager
def pair(**fields: Any) -> Iterator[dict[Role, Emulated]]:
    slow = EngineTiming(prefill_s=lambda tokens: 0.05)
    with (
        emulated(config(Role.PREFILL, **fields), slow) as prefill,
        emulated(config(Role.DECODE, **fields)) as decode,
    ):
        yield {Role.PREFILL: prefill, Role.DECODE: decode}


def meeting(engines: dict[Role, Emulated], room: int) -> dict[str, Any]:
    address = engines[Role.PREFILL].address
    return {
        "bootstrap_host": address.host,
        "bootstrap_port": address.side_port,
        "bootstrap_room": room,
        "rid": f"r-{room}",
    }


class Beside(threading.Thread):
    """A chat that is sent while the test goes on."""

    def __init__(self, engine: Emulated, body: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self._engine, self._body = engine, body
        self.start()

    def run(self) -> None:
        self._answer = self._engine.chat(self._body)

    def answer(self) -> Any:
        self.join(10.0)
        return self._answer


def test_its_answer_is_in_its_words(engines: dict[Role, Emulated]) -> None:
    answer = engines[Role.AGGREGATED].chat(BODY).json()
    choice = answer["choices"][0]
    assert (choice["finish_reason"], choice["matched_stop"]) == ("length", None)
    assert answer["usage"]["completion_tokens"] == 20
    refused = engines[Role.AGGREGATED].chat(BODY | {"max_tokens": 0}).json()
    assert (refused["object"], refused["code"]) == ("error", 400)


@pytest.mark.parametrize("first", [Role.PREFILL, Role.DECODE])
def test_the_two_meet_whoever_comes_first(engines: dict[Role, Emulated], first: Role) -> None:
    """Prefill answers once decode has been there, and decode says what one server says."""
    body = BODY | meeting(engines, 7 if first is Role.PREFILL else 8)
    other = Role.DECODE if first is Role.PREFILL else Role.PREFILL
    answers = {first: Beside(engines[first], body)}
    busy = "leases" if first is Role.PREFILL else "fetching"
    until(lambda: engines[first].state()[busy] > 0)
    answers[other] = Beside(engines[other], body)
    decoded, filled = answers[Role.DECODE].answer().json(), answers[Role.PREFILL].answer().json()
    alone = engines[Role.AGGREGATED].chat(BODY).json()
    assert decoded["choices"] == alone["choices"]
    assert filled["usage"]["completion_tokens"] == 1
    until(lambda: all(map(nothing_left, engines.values())))


@pytest.mark.parametrize("role", [Role.PREFILL, Role.DECODE])
def test_one_that_nobody_comes_to_fails(role: Role) -> None:
    with pair(lease_s=0.3) as engines:
        answer = engines[role].chat(BODY | meeting(engines, 20))
        assert (answer.status_code, answer.json()["object"]) == (500, "error")
        until(lambda: all(map(nothing_left, engines.values())))


def test_a_prefill_is_aborted_by_its_name(engines: dict[Role, Emulated]) -> None:
    waiting = Beside(engines[Role.PREFILL], BODY | meeting(engines, 30))
    until(lambda: engines[Role.PREFILL].state()["leases"] > 0)
    engines[Role.PREFILL].http.post("/abort_request", json={"rid": "r-30"}).raise_for_status()
    assert waiting.answer().status_code == 500
    assert nothing_left(engines[Role.PREFILL])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bootstrap_room": None}, "without bootstrap room id"),
        ({"bootstrap_room": 1 << 63}, "63-bit"),
        ({"bootstrap_port": None}, "bootstrap_host and bootstrap_port"),
        ({"kv_transfer_params": {"do_remote_prefill": True}}, "Contract: SGLang has no kv_transfer_params"),
    ],
)
def test_what_breaks_the_contract_is_refused(
    engines: dict[Role, Emulated], changes: dict[str, Any], said: str
) -> None:
    answer = engines[Role.DECODE].chat(BODY | meeting(engines, 40) | changes)
    assert answer.status_code == 400 and said in answer.json()["message"]


def test_it_says_what_it_is(engines: dict[Role, Emulated]) -> None:
    for role, mode in ((Role.PREFILL, "prefill"), (Role.DECODE, "decode"), (Role.AGGREGATED, "null")):
        facts = engines[role].http.get("/server_info").json()
        assert (facts["version"], facts["disaggregation_mode"]) == ("0.5.23", mode)
    port = engines[Role.PREFILL].http.get("/get_server_info").json()["disaggregation_bootstrap_port"]
    assert port == engines[Role.PREFILL].address.side_port
    assert "sglang:max_total_num_tokens" in engines[Role.DECODE].http.get("/metrics").text


@contextmanager
def switching() -> Iterator[dict[Role, Emulated]]:
    with pair(role_switch=True) as engines:
        yield engines


def become(engine: Emulated, role: str, **fields: Any) -> tuple[int, dict[str, Any]]:
    answer = engine.http.post("/pd_role_switch", json={"new_role": role, **fields})
    return answer.status_code, answer.json()


def state_of(engine: Emulated) -> dict[str, Any]:
    """What it says of its state, beside what it was started with."""
    (state,) = engine.http.get("/server_info").json()["internal_states"]
    return dict(state)


def test_prefill_and_decode_change_places_and_say_the_same() -> None:
    with switching() as engines, emulated(config(Role.AGGREGATED)) as alone:
        first, second = engines[Role.PREFILL], engines[Role.DECODE]
        graphs = state_of(second)["decode_cuda_graph_memory_gb"]
        assert become(first, "decode", decode_cuda_graph_memory_gb=graphs) == (
            200,
            {
                "success": True,
                "message": "ok",
                "old_role": "prefill",
                "new_role": "decode",
                "safe_to_restore": False,
            },
        )
        assert become(second, "prefill")[0] == 200
        facts = first.http.get("/server_info").json()
        assert (facts["disaggregation_mode"], state_of(first)["disaggregation_mode"]) == ("prefill", "decode")
        other_way = {Role.PREFILL: second, Role.DECODE: first}
        body = BODY | meeting(other_way, 50)
        filled = Beside(second, body)
        assert first.chat(body).json()["choices"] == alone.chat(BODY).json()["choices"]
        assert filled.answer().status_code == 200
        until(lambda: all(map(nothing_left, engines.values())))


def test_one_that_is_what_it_is_asked_to_be_says_so_however_busy_it_is() -> None:
    with switching() as engines:
        waiting = Beside(engines[Role.PREFILL], BODY | meeting(engines, 60))
        until(lambda: engines[Role.PREFILL].state()["leases"] > 0)
        status, told = become(engines[Role.PREFILL], "prefill")
        assert (status, told["success"], told["message"]) == (200, True, "already in target role")
        status, told = become(engines[Role.PREFILL], "decode", decode_cuda_graph_memory_gb=0.0)
        assert (status, told["success"], told["safe_to_restore"]) == (400, False, True)
        assert "not idle" in told["message"]
        engines[Role.DECODE].chat(BODY | meeting(engines, 60))
        assert waiting.answer().status_code == 200, "what it had in hand is done as before"


@pytest.mark.parametrize(
    ("enabled", "asked", "said"),
    [
        (False, {"new_role": "decode"}, "--enable-pd-role-switch is not set"),
        (True, {"new_role": "both"}, "invalid new_role='both'"),
        (True, {"new_role": 3}, "Expected `str`"),
        (True, {"new_role": "decode"}, "decode_cuda_graph_memory_gb is required"),
    ],
)
def test_a_role_that_it_does_not_take_it_refuses(enabled: bool, asked: dict[str, Any], said: str) -> None:
    with emulated(config(Role.PREFILL, role_switch=enabled)) as engine:
        answer = engine.http.post("/pd_role_switch", json=asked)
        assert answer.status_code == 400 and said in answer.json()["message"]
        assert state_of(engine)["disaggregation_mode"] == "prefill"


def test_whether_it_could_be_done_can_be_asked() -> None:
    with emulated(config(Role.DECODE, role_switch=True)) as engine:
        assert become(engine, "prefill", prepare_only=True)[1]["message"] == "ready"
        assert state_of(engine)["disaggregation_mode"] == "decode"


def test_only_prefill_and_decode_change_roles() -> None:
    with pytest.raises(ValueError, match="only SGLang's servers that prefill or decode change roles"):
        config(Role.AGGREGATED, role_switch=True)
