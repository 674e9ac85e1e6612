"""`tercet up` in front of engine servers: emulated vLLM, one a stage, beside one that does all three."""

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.policy import load_policy
from stages.emulator.config import Role
from stages.types import Stage
from tests.fakes.emulator import Emulated, emulated_epd
from tests.orchestrator.test_video_header import mp4, track
from tests.stages.emulator.kit import chat, image
from tests.system.harness import ROOT, System, until
from tests.system.served import CASES, ask, said

pytestmark = pytest.mark.slow  # four systems of real processes


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Role, Emulated]]:
    limits = {"image": 4, "video": 1, "audio": 1}
    folder = tmp_path_factory.mktemp("embeddings")
    with emulated_epd(folder, model="tiny", max_model_len=1024, media_limits=limits) as running:
        yield running


@pytest.fixture(scope="module")
def served(engines: dict[Role, Emulated], tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    stages = (Role.ENCODE, Role.PREFILL, Role.DECODE)
    addresses = ",".join(f"{stage}={engines[stage].url}" for stage in stages)
    policy = ROOT / "policies" / "vllm-tiny.yaml"
    with System(tmp_path_factory.mktemp("served"), policy=policy, options=("--engines", addresses)) as system:
        yield system


@pytest.mark.parametrize("body", CASES.values(), ids=CASES)
def test_three_servers_say_what_one_does(
    served: System, engines: dict[Role, Emulated], body: dict[str, Any]
) -> None:
    alone = engines[Role.AGGREGATED].chat(body).json()["choices"][0]
    answer = ask(served, body).json()["choices"][0]
    assert answer["token_ids"] == alone["token_ids"]
    assert answer["message"]["content"] == alone["message"]["content"]
    stream = ask(served, body | {"stream": True, "return_token_ids": False})
    assert said(stream.text) == alone["message"]["content"]
    assert "token_ids" not in stream.text and stream.text.endswith("data: [DONE]\n\n")


def test_many_at_once_are_all_answered_and_nothing_stays_behind(
    served: System, engines: dict[Role, Emulated]
) -> None:
    bodies = [chat(f"what is {n}", *[image(9 + n)] * (n % 3), model="tiny") for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: ask(served, body).json(), bodies))
    for body, answer in zip(bodies, answers, strict=True):
        alone = engines[Role.AGGREGATED].chat(body).json()
        assert answer["choices"][0]["token_ids"] == alone["choices"][0]["token_ids"]
    for stage in (Role.PREFILL, Role.DECODE):
        until(f"{stage} holds no block", lambda stage=stage: not engines[stage].state()["blocks_used"])


def test_what_the_engine_refuses_is_told_in_its_words(served: System) -> None:
    refused = ask(served, chat("describe " * 9000, model="tiny"))
    assert refused.status_code == 400
    assert "maximum" in refused.json()["error"]["message"]


def data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


CLIP = b"RIFF....WAVEfmt " + bytes(64)
MEDIA = {
    "a video": chat(
        "what happens",
        {"type": "video_url", "video_url": {"url": data_url("video/mp4", mp4(track(64, 48)))}},
        model="tiny",
    ),
    "a clip beside an image": chat(
        "who speaks",
        {"type": "audio_url", "audio_url": {"url": data_url("audio/wav", CLIP)}},
        image(6),
        model="tiny",
    ),
    "inline audio": chat(
        "what is said",
        {"type": "input_audio", "input_audio": {"data": base64.b64encode(CLIP).decode(), "format": "wav"}},
        model="tiny",
    ),
}


@pytest.fixture(scope="module")
def listening(engines: dict[Role, Emulated], tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The same engines for a model that takes video and audio too."""
    folder = tmp_path_factory.mktemp("listening")
    file = folder / "listening.yaml"
    shipped = (ROOT / "policies" / "vllm-tiny.yaml").read_text()
    file.write_text(shipped.replace("kappa: 1", "kappa: 1, modalities: [image, video, audio]"))
    addresses = ",".join(f"{stage}={engines[Role(stage)].url}" for stage in Stage)
    with System(folder, policy=file, options=("--engines", addresses)) as system:
        yield system


def encoded(engines: dict[Role, Emulated]) -> float:
    """Return how many items encode has looked at."""
    families = text_string_to_metric_families(engines[Role.ENCODE].http.get("/metrics").text)
    return sum(s.value for f in families for s in f.samples if s.name == "vllm:mm_cache_queries_total")


@pytest.mark.parametrize("body", MEDIA.values(), ids=MEDIA)
def test_video_and_audio_go_the_way_of_images(
    listening: System, engines: dict[Role, Emulated], body: Any
) -> None:
    """As files, which nobody on the way opens; encode is asked for each."""
    alone = engines[Role.AGGREGATED].chat(body).json()["choices"][0]
    before = encoded(engines)
    answer = ask(listening, body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["token_ids"] == alone["token_ids"]
    media = [part for part in body["messages"][0]["content"] if part["type"] != "text"]
    assert encoded(engines) - before == len(media)


SPLITS = {
    "not split": "{encode_from: null, prefill_from: null}",
    "E|PD": "{encode_from: 0, prefill_from: null}",
    "EP|D": "{encode_from: null, prefill_from: 0}",
    "E|PD for the short, E|P|D for the long": "{encode_from: 0, prefill_from: 100}",
}


@pytest.mark.slow
@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
def test_a_service_splits_as_its_policy_says(
    engines: dict[Role, Emulated], tmp_path: Path, split: str
) -> None:
    """All answers are those of one server; a stage that no request passes has no worker."""
    file = tmp_path / "split.yaml"
    shipped = (ROOT / "policies" / "vllm-tiny.yaml").read_text()
    file.write_text(f"{shipped}split: {split}\n")
    used = list(load_policy(file).used_stages)
    addresses = ",".join(f"{stage}={engines[Role(stage)].url}" for stage in used)
    with System(tmp_path, policy=file, options=("--engines", addresses)) as system:
        assert [stage for stage in Stage if system.processes(stage)] == used
        for body in CASES.values():
            alone = engines[Role.AGGREGATED].chat(body).json()["choices"][0]
            assert ask(system, body).json()["choices"][0]["token_ids"] == alone["token_ids"]


@pytest.mark.slow
def test_any_openai_server_can_be_the_engine(engines: dict[Role, Emulated], tmp_path: Path) -> None:
    """Without ids, metrics or a version of its own; two replicas of it."""
    policy = ROOT / "policies" / "examples" / "openai-server.yaml"
    address = f"decode={engines[Role.AGGREGATED].url}"
    with System(tmp_path, policy=policy, options=("--engines", f"{address},{address}")) as system:
        assert len(system.processes(Stage.DECODE)) == 2
        for body in CASES.values():
            alone = engines[Role.AGGREGATED].chat(body).json()["choices"][0]["message"]["content"]
            assert ask(system, body).json()["choices"][0]["message"]["content"] == alone
            stream = ask(system, body | {"stream": True, "return_token_ids": False})
            assert said(stream.text) == alone
