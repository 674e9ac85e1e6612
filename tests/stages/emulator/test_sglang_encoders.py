"""Emulated SGLang whose media are encoded by encoders that it calls, and keeps a list of."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from stages.emulator.config import EmulatorConfig, EngineTiming, Kind, Role
from stages.free_ports import free_port
from tests.fakes.emulator import Emulated, emulated
from tests.stages.emulator.kit import chat, image, nothing_left, until
from tests.stages.emulator.test_sglang import Beside

IMAGES = [image(n) for n in range(3)]
BODY = chat("what are", *IMAGES, max_tokens=20, return_token_ids=None, rid="r")
ENCODE = {
    "mm_items": [IMAGES[0]["image_url"]["url"]],
    "modality": "IMAGE",
    "req_id": "r_local_part_0",
    "num_parts": 1,
    "part_idx": 0,
    "prefill_host": "127.0.0.1",
    "embedding_port": None,
}


class Listed:
    """A language server's list of encoders."""

    def __init__(self, language: Emulated) -> None:
        self._http = httpx.Client(base_url=language.address.list_url, trust_env=False)

    def become(self, *encoders: Emulated) -> None:
        for url in self.urls():
            self.drop(url).raise_for_status()
        for encoder in encoders:
            self.add(encoder.url).raise_for_status()

    def urls(self) -> list[str]:
        urls: list[str] = self._http.get("/list_encoder_urls").json()["encoder_urls"]
        return urls

    def add(self, url: str) -> httpx.Response:
        return self._http.post("/register_encoder_url", json={"url": url})

    def drop(self, url: str) -> httpx.Response:
        return self._http.request("DELETE", "/unregister_encoder_url", json={"url": url})


def config(role: Role, **fields: Any) -> EmulatorConfig:
    return EmulatorConfig(kind=Kind.SGLANG, role=role, **fields)


@pytest.fixture(scope="module")
def encoders() -> Iterator[list[Emulated]]:
    slow = EngineTiming(image_s=0.05)
    with emulated(config(Role.ENCODE), slow) as one, emulated(config(Role.ENCODE), slow) as other:
        yield [one, other]


@pytest.fixture(scope="module")
def language() -> Iterator[Emulated]:
    """One that prefills and decodes."""
    with emulated(config(Role.AGGREGATED, language_only=True)) as engine:
        yield engine


@pytest.fixture(scope="module")
def whole() -> Iterator[Any]:
    """What one server that does all says."""
    with emulated(config(Role.AGGREGATED)) as alone:
        yield alone.chat(BODY).json()["choices"]


@pytest.fixture
def listed(language: Emulated, encoders: list[Emulated]) -> Iterator[Listed]:
    """A list of both encoders; faults end with the test."""
    found = Listed(language)
    found.become(*encoders)
    yield found
    for encoder in encoders:
        encoder.set_faults(hang=False, error_rate=0, slow=1)


def encoded(encoder: Emulated) -> int:
    return int(encoder.state()["encoder"]["encoded"])


def test_media_are_spread_over_the_encoders_on_the_list(
    language: Emulated, encoders: list[Emulated], listed: Listed, whole: Any
) -> None:
    """The answer is that of one server that does all."""
    before = [encoded(encoder) for encoder in encoders]
    assert language.chat(BODY).json()["choices"] == whole
    assert sorted(encoded(encoder) - n for encoder, n in zip(encoders, before, strict=True)) == [1, 2]
    assert encoded(language) == 0
    until(lambda: all(map(nothing_left, (language, *encoders))))


def test_a_request_is_encoded_by_those_that_are_on_the_list_when_it_comes(
    language: Emulated, encoders: list[Emulated], listed: Listed, whole: Any
) -> None:
    before = encoded(encoders[1])
    encoders[1].set_faults(slow=20)  # so that it is seen at work
    going_on = Beside(language, BODY)
    until(lambda: encoders[1].state()["running"] > 0)
    listed.drop(encoders[1].url)
    assert going_on.answer().json()["choices"] == whole
    between = encoded(encoders[1])
    assert between > before
    assert language.chat(BODY).json()["choices"] == whole
    assert encoded(encoders[1]) == between


def test_media_without_an_encoder_break_the_contract(language: Emulated, listed: Listed) -> None:
    listed.become()
    answer = language.chat(BODY)
    assert (answer.status_code, answer.json()["message"]) == (
        503,
        "Contract: media need an encoder, and none is registered.",
    )
    assert language.chat(chat("no images")).status_code == 200


def test_an_encoder_that_fails_fails_the_request(
    language: Emulated, encoders: list[Emulated], listed: Listed
) -> None:
    encoders[1].set_faults(error_rate=1, error_status=503)
    answer = language.chat(BODY)
    assert (answer.status_code, answer.json()["message"]) == (503, "Injected fault")
    until(lambda: all(map(nothing_left, (language, *encoders))))


def test_an_encoder_that_has_gone_fails_the_request(language: Emulated, listed: Listed) -> None:
    listed.add(f"http://127.0.0.1:{free_port()}")
    assert language.chat(BODY).status_code == 502


def test_a_request_is_aborted_while_its_media_are_encoded(
    language: Emulated, encoders: list[Emulated], listed: Listed
) -> None:
    for encoder in encoders:
        encoder.set_faults(hang=True)
    waiting = Beside(language, BODY)
    until(lambda: language.state()["awaiting"] > 0)
    language.http.post("/abort_request", json={"rid": "r"}).raise_for_status()
    assert waiting.answer().json()["message"] == "Aborted by user"
    assert nothing_left(language)


def test_registering_twice_and_dropping_what_is_not_there_change_nothing(
    encoders: list[Emulated], listed: Listed
) -> None:
    assert listed.add(encoders[0].url).text == "OK"
    assert listed.drop("http://nobody:1").text == "OK"
    assert sorted(listed.urls()) == sorted(encoder.url for encoder in encoders)
    assert listed.add("").status_code == 400


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"req_id": ""}, "missing or invalid req_id"),
        ({"modality": "SMELL"}, "unsupported modality: SMELL"),
        ({"mm_items": []}, "missing or empty mm_items"),
        ({"num_parts": 0}, "num_parts must be a positive integer"),
        ({"part_idx": 1}, "part_idx must be in [0, 1)"),
        ({"embedding_port": 4}, "Contract: this encoder brings embeddings"),
        ({"mm_items": ["data:image/png;base64,AAAA"]}, "cannot identify image file"),
    ],
)
def test_what_is_no_request_to_encode_is_refused(
    encoders: list[Emulated], changes: dict[str, Any], said: str
) -> None:
    answer = encoders[0].http.post("/encode", json=ENCODE | changes)
    assert (answer.status_code, answer.json()["status"]) == (400, "error")
    assert said in answer.json()["message"]


def test_an_embedding_that_nobody_wants_is_dropped() -> None:
    with emulated(config(Role.ENCODE, handshake_s=0.2)) as encoder:
        assert encoder.http.post("/encode", json=ENCODE).status_code == 500
        assert nothing_left(encoder)


def test_an_encoder_says_what_it_does_and_is_no_other_server(encoders: list[Emulated]) -> None:
    metrics = encoders[0].http.get("/metrics").text
    assert 'sglang:encoder_requests_received_total{modality="image"' in metrics
    assert "sglang:encoder_model_forward_seconds_sum" in metrics
    assert encoders[0].http.get("/health").status_code == 200
    for path in ("/server_info", "/v1/models"):
        assert encoders[0].http.get(path).status_code == 404


def test_only_language_servers_call_encoders() -> None:
    with pytest.raises(ValueError, match="only SGLang's language servers"):
        config(Role.ENCODE, language_only=True)
