"""SGLang's encoders, and the servers that are told of them, by emulated ones."""

import asyncio
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from typing import Any

import httpx
import msgspec
import pytest

from stages.adapters.bodies import restored
from stages.adapters.calls import Calls
from stages.adapters.load import read_encoder_load
from stages.adapters.server import EngineServer
from stages.adapters.sglang import Meeting, SglangDecode, SglangPrefill, SglangWatch
from stages.adapters.sglang_encoders import EncoderList, EncoderWatch, SglangEncoder
from stages.adapters.watch import ServerUnfit
from stages.blobs import BlobStore, inlined
from stages.emulator.config import EmulatorConfig, Kind, Role
from stages.engines import EngineRefused
from stages.free_ports import free_port
from stages.limits import EngineLimits
from stages.types import (
    Chat,
    DecodeJob,
    EncodeJob,
    FinishReason,
    KVRef,
    PrefillJob,
    Prompt,
    Sampling,
    Stage,
)
from tests.fakes.emulator import Emulated, emulated
from tests.stages.adapters.kit import kept_image
from tests.stages.emulator.kit import chat, nothing_left, until

LIMITS = EngineLimits()
ONE, OTHER, STRANGER = "http://10.0.0.1:1", "http://10.0.0.2:1", "http://10.0.0.3:1"


@pytest.fixture
def language() -> Iterator[Emulated]:
    config = EmulatorConfig(kind=Kind.SGLANG, role=Role.PREFILL, language_only=True)
    with emulated(config) as engine:
        yield engine


@pytest.fixture
def encoder() -> Iterator[Emulated]:
    with emulated(EmulatorConfig(kind=Kind.SGLANG, role=Role.ENCODE)) as engine:
        yield engine


def at(engine: Emulated) -> EngineServer:
    return EngineServer(kind="sglang", url=engine.url, model="emulated", encoders_called=True, start_s=10.0)


def listed(language: Emulated) -> list[str]:
    address = language.address.list_url + "/list_encoder_urls"
    urls: list[str] = httpx.get(address, trust_env=False).json()["encoder_urls"]
    return sorted(urls)


def add(language: Emulated, url: str) -> None:
    address = language.address.list_url + "/register_encoder_url"
    httpx.post(address, json={"url": url}, trust_env=False).raise_for_status()


def drop(language: Emulated, url: str) -> None:
    address = language.address.list_url + "/unregister_encoder_url"
    httpx.request("DELETE", address, json={"url": url}, trust_env=False).raise_for_status()


def prefill_job(blobs: BlobStore, *, images: int) -> PrefillJob:
    parts: list[Any] = [{"type": "image_url", "image_url": {"url": "media:0"}}] * images
    body = inlined(msgspec.json.encode(chat("what", *parts)), 60.0)
    return PrefillJob(
        prompt=Prompt(token_ids=()),
        chat=Chat(body=body, items=(kept_image(blobs),) * images),
        embeddings=(),
        sampling=Sampling(max_tokens=4),
        **_of("prefill"),
    )


def decode_job(job: PrefillJob, kv: KVRef) -> DecodeJob:
    return DecodeJob(kv=kv, chat=job.chat, sampling=job.sampling, **_of("decode"))


def _of(hop: str) -> Any:
    return {
        "request_id": "r",
        "hop": hop,
        "attempt": 1,
        "reply_to": "g",
        "model": "emulated",
        "deadline_unix_s": 4e9,
    }


def test_a_server_calls_the_encoders_that_it_is_told_of_and_no_others(
    language: Emulated, blobs: BlobStore
) -> None:
    """What others have put on its list goes; so does what it has forgotten come back."""
    engine = SglangPrefill(at(language), blobs, LIMITS)
    add(language, STRANGER)
    engine.meet(Stage.ENCODE, [ONE, OTHER])
    assert listed(language) == [ONE, OTHER]
    assert engine.load().encoders == (ONE, OTHER)
    drop(language, ONE)
    engine.meet(Stage.ENCODE, [ONE, OTHER])
    assert listed(language) == [ONE, OTHER]
    engine.meet(Stage.ENCODE, [OTHER])
    assert listed(language) == [OTHER]
    assert engine.load().encoders == (OTHER,)
    engine.close()


def test_of_a_list_that_cannot_be_changed_all_may_be_called_that_was_or_was_to_be(blobs: BlobStore) -> None:
    config = EmulatorConfig(kind=Kind.SGLANG, role=Role.PREFILL, language_only=True)
    with emulated(config) as language:
        engine = SglangPrefill(at(language), blobs, LIMITS)
        engine.meet(Stage.ENCODE, [ONE])
    with pytest.raises(EngineRefused, match="/list_encoder_urls"):
        engine.meet(Stage.ENCODE, [OTHER])
    assert engine.load().encoders == (ONE, OTHER)
    engine.close()


def test_an_address_that_is_refused_keeps_no_other_on_or_off_the_list(
    language: Emulated, blobs: BlobStore
) -> None:
    engine = SglangPrefill(at(language), blobs, LIMITS)
    add(language, STRANGER)
    with pytest.raises(EngineRefused, match="/register_encoder_url"):
        engine.meet(Stage.ENCODE, ["", ONE])
    assert listed(language) == [ONE]
    engine.close()


class FakeList:
    """`Calls` to a list of encoders; remembers what it was at each question, and who was said to be on it."""

    def __init__(self, *urls: str) -> None:
        self.urls = set(urls)
        self.history: list[set[str]] = []
        self.called: list[frozenset[str]] = []
        self.encoders = EncoderList(self, "http://list")  # type: ignore[arg-type]

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run(work)

    async def ask(self, method: str, path: str, body: dict[str, str] | None, timeout_s: float) -> bytes:
        self.called.append(self.encoders.called)
        if body:
            (self.urls.add if method == "POST" else self.urls.discard)(body["url"])
        self.history.append(set(self.urls))
        return msgspec.json.encode({"encoder_urls": sorted(self.urls)})


def test_who_is_wrong_goes_first_unless_nobody_would_be_left() -> None:
    kept = FakeList(ONE, STRANGER)
    kept.encoders.become([ONE, OTHER])
    assert kept.history[1:] == [{ONE}, {ONE, OTHER}]
    replaced = FakeList(STRANGER)
    replaced.encoders.become([ONE])
    assert replaced.history[1:] == [{ONE, STRANGER}, {ONE}]


def test_who_is_to_be_called_is_said_before_the_list_is_asked_for() -> None:
    """Which may take seconds, in which an encoder that drains looks whether anybody may still call it."""
    fake = FakeList()
    fake.encoders.become([ONE])
    assert all(ONE in called for called in fake.called)


def test_media_wait_for_an_encoder_and_text_does_not(language: Emulated, blobs: BlobStore) -> None:
    engine = SglangPrefill(at(language), blobs, LIMITS)
    with pytest.raises(EngineRefused, match="no encoder to call yet"):
        engine.prefill(prefill_job(blobs, images=1))
    engine.prefill(prefill_job(blobs, images=0))
    engine.meet(Stage.ENCODE, [ONE])
    engine.prefill(prefill_job(blobs, images=1))
    engine.close()


def test_media_are_not_sent_to_a_server_whose_list_is_empty_by_then(
    language: Emulated, blobs: BlobStore
) -> None:
    """Decode may wait long for its turn after the prefill hop."""
    with emulated(EmulatorConfig(kind=Kind.SGLANG, role=Role.DECODE)) as other:
        prefill, decode = SglangPrefill(at(language), blobs, LIMITS), SglangDecode(at(other), blobs, LIMITS)
        prefill.meet(Stage.ENCODE, [ONE])
        jobs = [prefill_job(blobs, images=images) for images in (1, 0)]
        media, text = (decode_job(job, prefill.prefill(job)) for job in jobs)
        drop(language, ONE)
        with pytest.raises(EngineRefused, match=f"{language.url} has no encoder to call any more"):
            decode.decode(media, lambda chunk: None)
        assert decode.decode(text, lambda chunk: None) is FinishReason.LENGTH
        until(lambda: nothing_left(language) and nothing_left(other))
        prefill.close()
        decode.close()


def test_a_server_that_has_its_own_encoders_is_told_of_none(language: Emulated, blobs: BlobStore) -> None:
    """As `--encoder-urls` has them, for services whose policy leaves encode out."""
    add(language, STRANGER)
    server = EngineServer(kind="sglang", url=language.url, model="emulated")
    engine = SglangPrefill(server, blobs, LIMITS)
    engine.prefill(prefill_job(blobs, images=1))
    assert listed(language) == [STRANGER]
    engine.close()


def test_a_server_without_a_list_is_refused_where_encoders_are_called(blobs: BlobStore) -> None:
    with (
        emulated(EmulatorConfig(kind=Kind.SGLANG, role=Role.PREFILL)) as engine,
        pytest.raises(ServerUnfit, match="was not started with --language-only"),
    ):
        SglangPrefill(at(engine), blobs, LIMITS)


class SaysNoPort(SglangWatch):
    """Asks a server that does not say where its list is."""

    def checked_version(self) -> str:
        version = super().checked_version()
        del self.facts["encoder_bootstrap_port"]
        return version


class OfNoPort(SglangPrefill):
    """Asks such a server."""

    watches = SaysNoPort


def test_a_server_whose_list_cannot_be_found_is_refused(language: Emulated, blobs: BlobStore) -> None:
    with pytest.raises(ServerUnfit, match="does not say where its list of encoders is"):
        OfNoPort(at(language), blobs, LIMITS)


@pytest.mark.parametrize(
    "config",
    [
        EmulatorConfig(kind=Kind.SGLANG, role=Role.PREFILL, language_only=True),
        EmulatorConfig(kind=Kind.VLLM, role=Role.ENCODE),
    ],
    ids=["prefill", "vllm"],
)
def test_a_server_that_does_not_encode_alone_is_refused(config: EmulatorConfig, blobs: BlobStore) -> None:
    with emulated(config) as other, pytest.raises(ServerUnfit, match="with --encoder-only"):
        SglangEncoder(at(other), blobs, LIMITS)


class Deaf(EncoderWatch):
    """Asks a server that answers no more once it was healthy."""

    def checked_version(self) -> str:
        self.server = replace(self.server, url=f"http://127.0.0.1:{free_port()}")
        self.calls = Calls(self.server)
        return super().checked_version()


class OfDeaf(SglangEncoder):
    """Asks such a server."""

    watches = Deaf


def test_an_encoder_that_falls_silent_at_its_start_is_refused(encoder: Emulated, blobs: BlobStore) -> None:
    with pytest.raises(ServerUnfit, match="does not say whether it encodes"):
        OfDeaf(at(encoder), blobs, LIMITS)


def test_an_encoder_is_watched_and_given_no_work(encoder: Emulated, blobs: BlobStore) -> None:
    engine = SglangEncoder(at(encoder), blobs, LIMITS)
    assert (engine.load().batch_size, engine.load().total_kv_bytes, engine.failed) == (0, 0, None)
    item = prefill_job(blobs, images=1).chat.items[0]  # type: ignore[union-attr]
    with pytest.raises(EngineRefused, match="called by the servers that prefill"):
        engine.encode(EncodeJob(item=item, **_of("encode.0")))
    engine.close()


def test_an_encoders_load_is_what_came_and_has_not_ended() -> None:
    """Over all modalities, endings and ranks; seconds of computing are those of batches."""
    load = read_encoder_load(
        """# TYPE sglang:encoder_requests_received_total counter
sglang:encoder_requests_received_total{model_name="m",dp_rank="0",modality="image"} 7
sglang:encoder_requests_received_total{model_name="m",dp_rank="1",modality="video"} 2
# TYPE sglang:encoder_requests_total counter
sglang:encoder_requests_total{model_name="m",dp_rank="0",modality="image",status="success"} 4
sglang:encoder_requests_total{model_name="m",dp_rank="0",modality="image",status="error"} 1
# TYPE sglang:encoder_model_forward_seconds histogram
sglang:encoder_model_forward_seconds_bucket{model_name="m",modality="image",le="+Inf"} 5
sglang:encoder_model_forward_seconds_count{model_name="m",modality="image"} 5
sglang:encoder_model_forward_seconds_sum{model_name="m",modality="image"} 2.5
# TYPE sglang:encoder_cache_total_tokens_total counter
sglang:encoder_cache_total_tokens_total{model_name="m",modality="image"} 100
# TYPE sglang:encoder_cache_hit_tokens_total counter
sglang:encoder_cache_hit_tokens_total{model_name="m",modality="image"} 40
"""
    )
    assert (load.running, load.busy_s, load.cache_queries, load.cache_hits) == (4, 2.5, 100, 40)
    assert read_encoder_load("") == type(load)()


def test_peers_reach_a_server_where_it_says() -> None:
    server = EngineServer(url="http://127.0.0.1:8000", model="m", peer_host="10.0.0.7")
    assert server.peer_url == "http://10.0.0.7:8000"
    assert EngineServer(url="http://a:8000", model="m").peer_url == "http://a:8000"


def test_servers_are_met_at_addresses_of_either_family(language: Emulated, blobs: BlobStore) -> None:
    """SGLang is told a bare host, from which it makes addresses itself."""
    server = replace(at(language), peer_host="fd00::7")
    assert server.peer_url == f"http://[fd00::7]:{language.address.port}"
    engine = SglangPrefill(server, blobs, LIMITS)
    engine.meet(Stage.ENCODE, [ONE])
    kv = engine.prefill(prefill_job(blobs, images=1))
    meeting = msgspec.convert(restored(kv.blob, blobs.get), Meeting)
    assert meeting.fields["bootstrap_host"] == "fd00::7"
    assert meeting.prefill_url == server.peer_url
    assert meeting.list_url == f"http://[fd00::7]:{language.address.encoder_port}"
    engine.close()
