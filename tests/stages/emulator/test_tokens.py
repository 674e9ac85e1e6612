"""Tokens in, tokens out: a chat rendered to its prompt, and gone on with behind any of its tokens."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.emulator.config import EmulatorConfig, Role
from stages.emulator.vocabulary import detokenize
from tests.fakes.emulator import Emulated, emulated, emulated_epd
from tests.stages.emulator.kit import MODEL, REMOTE_DECODE, chat, image

GENERATE = "/inference/v1/generate"
BODY = chat("what is this", image(7), "and", image(8), "?", max_tokens=40)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Role, Emulated]]:
    with emulated_epd(tmp_path_factory.mktemp("embeddings")) as running:
        yield running


@pytest.fixture(scope="module")
def alone(engines: dict[Role, Emulated]) -> Emulated:
    return engines[Role.AGGREGATED]


def render(engine: Emulated, body: dict[str, Any]) -> dict[str, Any]:
    answer = engine.http.post("/v1/chat/completions/render", json=body, headers={"x-request-id": "r"})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def behind(rendered: dict[str, Any], tokens: list[int], **more: Any) -> dict[str, Any]:
    sampling = rendered["sampling_params"]
    return rendered | {
        "token_ids": rendered["token_ids"] + tokens,
        "sampling_params": sampling | {"max_tokens": sampling["max_tokens"] - len(tokens)},
        **more,
    }


def events(text: str) -> list[dict[str, Any]]:
    lines = text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def test_a_rendered_chat_is_its_prompt(alone: Emulated) -> None:
    prompt = alone.chat(BODY).json()["prompt_token_ids"]
    rendered = render(alone, BODY)
    assert (rendered["token_ids"], rendered["request_id"]) == (prompt, "chatcmpl-r")
    spans = rendered["features"]["mm_placeholders"]["image"]
    assert all(len(set(prompt[s["offset"] : s["offset"] + s["length"]])) == 1 for s in spans)


@pytest.mark.parametrize("known", range(0, 40, 3))
def test_an_answer_goes_on_behind_any_of_its_tokens(alone: Emulated, known: int) -> None:
    """Also within a character, of which the bytes that were said before are not said again."""
    choice = alone.chat(BODY).json()["choices"][0]
    body = behind(render(alone, BODY), choice["token_ids"][:known], output_mode="text")
    rest = alone.http.post(GENERATE, json=body).json()["choices"][0]
    assert choice["token_ids"] == choice["token_ids"][:known] + rest["token_ids"]
    before = detokenize(choice["token_ids"][:known]).rstrip("\ufffd")
    assert before + rest["text"] == choice["message"]["content"]
    assert rest["finish_reason"] == "length"


def test_its_events_say_tokens_and_text(alone: Emulated) -> None:
    whole = alone.chat(BODY).json()
    options = {"stream": True, "stream_options": {"include_usage": True}, "output_mode": "text"}
    body = behind(render(alone, BODY), whole["choices"][0]["token_ids"][:5], **options)
    *said, last = events(alone.http.post(GENERATE, json=body).text)
    tokens = [token for event in said for token in event["choices"][0]["token_ids"]]
    assert tokens == whole["choices"][0]["token_ids"][5:]
    assert last["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"] + 5
    assert last["usage"]["completion_tokens"] == 35


def test_it_goes_on_across_prefill_and_decode(engines: dict[Role, Emulated]) -> None:
    choice = engines[Role.AGGREGATED].chat(BODY).json()["choices"][0]
    body = behind(render(engines[Role.PREFILL], BODY), choice["token_ids"][:5])
    once = body | {"sampling_params": body["sampling_params"] | {"max_tokens": 1}}
    filled = engines[Role.PREFILL].http.post(GENERATE, json=once | {"kv_transfer_params": REMOTE_DECODE})
    params = filled.json()["kv_transfer_params"]
    assert params["remote_num_tokens"] == len(body["token_ids"])
    fetches = engines[Role.DECODE].state()["fetches"]
    rest = engines[Role.DECODE].http.post(GENERATE, json=body | {"kv_transfer_params": params}).json()
    assert rest["choices"][0]["token_ids"] == choice["token_ids"][5:]
    assert engines[Role.DECODE].state()["fetches"] == fetches + 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"token_ids": []}, "at least 1 item"),
        ({"sampling_params": {"max_tokens": 0}}, "max_tokens must be at least 1"),
        ({"sampling_params": {"max_tokens": 1 << 20}}, "exceed the maximum model length"),
        ({"kv_transfer_params": REMOTE_DECODE}, "Contract: do_remote_decode"),
        ({"features": {"mm_hashes": {"image": ["k"]}, "mm_placeholders": {}, "kwargs_data": {}}}, "/render"),
    ],
)
def test_what_breaks_the_contract_is_refused(
    engines: dict[Role, Emulated], changes: dict[str, Any], said: str
) -> None:
    body = {"token_ids": [65], "sampling_params": {"max_tokens": 9}, "model": MODEL} | changes
    answer = engines[Role.PREFILL].http.post(GENERATE, json=body)
    assert answer.status_code == 400 and said in answer.text


def test_without_scale_out_there_is_no_such_path(tmp_path: Path) -> None:
    with emulated(EmulatorConfig(role=Role.AGGREGATED, ec_dir=str(tmp_path), scale_out=False)) as engine:
        assert engine.http.get(GENERATE).status_code == 404


def test_there_is_one_to_be_posted_to(alone: Emulated) -> None:
    assert alone.http.get(GENERATE).status_code == 405


def test_answers_drift_if_they_are_to(tmp_path: Path) -> None:
    with emulated(EmulatorConfig(role=Role.AGGREGATED, ec_dir=str(tmp_path))) as engine:
        engine.set_faults(drift=True)
        first, second = (engine.chat(BODY).json()["choices"][0]["token_ids"] for _ in range(2))
    assert first != second
