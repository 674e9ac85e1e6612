"""Engines that meet over HTTP and their side channel, as a proxy drives them."""

import json
import threading
from pathlib import Path

import httpx
import pytest

from stages.emulator.config import EmulatorConfig, EngineTiming, Role
from tests.fakes.emulator import Emulated, emulated, emulated_epd
from tests.stages.emulator.kit import chat, encoded, image, nothing_left, prefilled, through_three, until


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    with emulated_epd(tmp_path_factory.mktemp("ec")) as engines:
        yield engines


def ids(answer):
    return answer["choices"][0]["token_ids"]


def events(engine: Emulated, body: dict) -> list[str]:
    with engine.http.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as response:
        assert response.status_code == 200
        return [line.removeprefix("data: ") for line in response.iter_lines() if line]


def streamed(engine: Emulated, body: dict) -> tuple[str, list[int]]:
    *chunks, done = events(engine, body)
    assert done == "[DONE]"
    choices = [choice for chunk in chunks for choice in json.loads(chunk)["choices"]]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    return text, [token for choice in choices for token in choice.get("token_ids") or ()]


CASES = {
    "text": chat("hello there"),
    "image": chat(image(1), "what is this"),
    "two images": chat(image(1), "and", image(2, uuid="u-2"), "compare"),
    "the same image twice": chat(image(3), image(3)),
    "long": chat("describe " * 3000, image(4), max_tokens=100),
    "sampled": chat("hello", temperature=0.7, seed=5),
}


@pytest.mark.parametrize("name", CASES)
def test_three_engines_say_what_one_says(engines, name):
    body = CASES[name]
    alone = engines[Role.AGGREGATED].chat(body).json()
    three = through_three(engines, body)
    assert ids(three) == ids(alone)
    assert three["choices"] == alone["choices"] and three["usage"] == alone["usage"]
    assert all(map(nothing_left, engines.values()))


@pytest.mark.parametrize("name", CASES)
def test_a_stream_says_what_the_whole_answer_says(engines, name):
    body = CASES[name]
    alone = engines[Role.AGGREGATED].chat(body).json()
    params = prefilled(engines[Role.PREFILL], body)
    text, tokens = streamed(engines[Role.DECODE], body | {"kv_transfer_params": params})
    assert tokens == ids(alone)
    assert text == alone["choices"][0]["message"]["content"]


def test_encode_answers_with_keys_and_no_text(engines):
    answer = engines[Role.ENCODE].chat(chat(image(7, uuid="mine"), image(8), image(7, uuid="mine"))).json()
    other = next(key for key in answer["ec_transfer_params"] if key != "mine")
    assert answer["ec_transfer_params"] == {
        "mine": {"item_indices": [0, 2], "metadata": {"image_grid_thw": [1, 8, 8]}},
        other: {"item_indices": [1], "metadata": {"image_grid_thw": [1, 8, 8]}},
    }
    choice = answer["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "stop")
    assert answer["usage"]["completion_tokens"] == 0 and answer["kv_transfer_params"] is None
    assert engines[Role.ENCODE].chat(chat("text")).json()["ec_transfer_params"] is None


def test_prefill_uses_what_encode_left_and_says_nothing_if_it_is_not_there(engines):
    prefill = engines[Role.PREFILL]
    before = prefill.state()["encoder"]
    prefilled(prefill, body := chat(image(31)), encoded(engines[Role.ENCODE], body))
    prefilled(prefill, chat(image(32)))
    after = prefill.state()["encoder"]
    assert {name: after[name] - before[name] for name in after} == {
        "encoded": 1,
        "saved": 0,
        "hits": 1,
        "misses": 1,
    }


def test_prefill_keeps_blocks_until_decode_has_fetched_them(engines):
    with emulated(EmulatorConfig(role=Role.PREFILL)) as prefill:
        params = prefilled(prefill, body := chat("words " * 30))
        held = prefill.state()
        assert (held["leases"], held["blocks_used"]) == (1, len(params["remote_block_ids"][0]))
        assert (params["remote_host"], params["remote_port"]) == ("127.0.0.1", prefill.address.side_port)
        answer = engines[Role.DECODE].chat(body | {"kv_transfer_params": params}).json()
        assert answer["usage"]["prompt_tokens"] == params["remote_num_tokens"]
        assert nothing_left(prefill)


def failure(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["type"]


def test_decode_fails_if_the_cache_was_fetched_before(engines):
    body = chat("once")
    asked = body | {"kv_transfer_params": prefilled(engines[Role.PREFILL], body)}
    assert engines[Role.DECODE].chat(asked).status_code == 200
    assert failure(engines[Role.DECODE].chat(asked)) == (500, "InternalServerError")
    assert nothing_left(engines[Role.DECODE])


@pytest.mark.parametrize(
    "change",
    [{"remote_request_id": "chatcmpl-x"}, {"remote_engine_id": "another"}, {"remote_port": 9}],
)
def test_decode_fails_if_nobody_has_the_cache(engines, change):
    body = chat("nobody")
    params = prefilled(engines[Role.PREFILL], body)
    with emulated(EmulatorConfig(role=Role.DECODE, handshake_s=0.2)) as decode:
        answer = decode.chat(body | {"kv_transfer_params": params | change})
        assert failure(answer) == (500, "InternalServerError")
        assert streamed_error(decode, body | {"kv_transfer_params": params | change}) == 500
    assert engines[Role.DECODE].chat(body | {"kv_transfer_params": params}).status_code == 200


def streamed_error(engine: Emulated, body: dict) -> int:
    """A stream has status 200 before its engine fails, as vLLM's has."""
    *_, error, done = events(engine, body)
    assert done == "[DONE]"
    return json.loads(error)["error"]["code"]


def test_decode_without_parameters_computes_the_prompt_itself(engines):
    body = chat("alone", image(9))
    assert ids(engines[Role.DECODE].chat(body).json()) == ids(engines[Role.AGGREGATED].chat(body).json())


def test_decode_with_the_cache_of_another_prompt_says_something_else(engines):
    """So a router that mixes requests up is found out by its answers."""
    params = prefilled(engines[Role.PREFILL], chat("one"))
    mixed = engines[Role.DECODE].chat(chat("two", kv_transfer_params=params)).json()
    assert ids(mixed) != ids(engines[Role.AGGREGATED].chat(chat("two")).json())


def test_a_lease_ends(tmp_path: Path):
    with emulated(EmulatorConfig(role=Role.PREFILL, lease_s=0.05)) as prefill:
        params = prefilled(prefill, chat("late"))
        until(lambda: nothing_left(prefill))
        assert prefill.state()["lease_counts"]["expired"] == 1
        with emulated(EmulatorConfig(role=Role.DECODE)) as decode:
            answer = decode.chat(chat("late", kv_transfer_params=params))
            assert failure(answer) == (500, "InternalServerError")


CHAT = "/v1/chat/completions"
SLOW = EngineTiming(decode_s=lambda sequences, context: 0.02)
IMPATIENT = httpx.Timeout(10.0, read=0.3)


def test_a_client_that_goes_frees_what_it_held():
    with emulated(EmulatorConfig(role=Role.AGGREGATED), SLOW) as engine:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{engine.url}{CHAT}", json=chat("long", max_tokens=10_000), timeout=IMPATIENT)
        until(lambda: nothing_left(engine))
        assert engine.state()["requests"] == {"abort": 1}


def test_a_client_that_leaves_a_stream_frees_what_it_held():
    with emulated(EmulatorConfig(role=Role.AGGREGATED), SLOW) as engine:
        body = chat("long", max_tokens=10_000, stream=True)
        with httpx.stream("POST", f"{engine.url}{CHAT}", json=body) as response:
            next(response.iter_lines())
        until(lambda: nothing_left(engine))
        assert engine.state()["requests"] == {"abort": 1}


def test_a_client_that_goes_before_decode_has_room_gives_the_cache_up(tmp_path: Path):
    """Else prefill's blocks would be lost for a whole lease."""
    config = EmulatorConfig(role=Role.DECODE, max_seqs=1)
    with emulated(EmulatorConfig(role=Role.PREFILL)) as prefill, emulated(config, SLOW) as decode:
        params = prefilled(prefill, body := chat("waits"))
        first = threading.Thread(target=decode.chat, args=[chat("takes the seat", max_tokens=60)])
        first.start()
        until(lambda: decode.state()["running"] == 1)
        with pytest.raises(httpx.ReadTimeout):
            asked = body | {"kv_transfer_params": params}
            httpx.post(f"{decode.url}{CHAT}", json=asked, timeout=IMPATIENT)
        until(lambda: nothing_left(prefill))
        assert prefill.state()["lease_counts"]["released"] == 1
        first.join()


def test_a_lease_is_renewed_while_decode_has_no_room():
    config = EmulatorConfig(role=Role.DECODE, max_seqs=1, lease_s=1.0)
    with (
        emulated(EmulatorConfig(role=Role.PREFILL, lease_s=1.0)) as prefill,
        emulated(config, SLOW) as decode,
    ):
        params = prefilled(prefill, body := chat("waits"))
        first = threading.Thread(target=decode.chat, args=[chat("takes the seat", max_tokens=100)])
        first.start()
        until(lambda: decode.state()["running"] == 1)
        assert decode.chat(body | {"kv_transfer_params": params}).status_code == 200
        first.join()
        assert prefill.state()["lease_counts"]["expired"] == 0


def test_stop_strings_end_the_text_before_them(engines):
    engine, body = engines[Role.AGGREGATED], chat("stop", max_tokens=60)
    text = engine.chat(body).json()["choices"][0]["message"]["content"]
    stop = text.split()[2]
    choice = engine.chat(body | {"stop": stop}).json()["choices"][0]
    assert choice["message"]["content"] == text[: text.index(stop)]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)
    assert streamed(engine, body | {"stop": stop})[0] == text[: text.index(stop)]


def test_answers_may_end_by_themselves():
    with emulated(EmulatorConfig(role=Role.AGGREGATED, eos_every=8)) as engine:
        choice = engine.chat(chat("end", max_tokens=1000)).json()["choices"][0]
        assert choice["finish_reason"] == "stop" and len(choice["token_ids"]) < 1000
        assert "im_end" not in choice["message"]["content"]
        longer = engine.chat(chat("end", max_tokens=100, min_tokens=90)).json()["choices"][0]
        assert len(longer["token_ids"]) >= 90
        ignored = engine.chat(chat("end", max_tokens=1000, ignore_eos=True)).json()["choices"][0]
        assert ignored["finish_reason"] == "length"
