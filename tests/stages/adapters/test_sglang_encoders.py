"""SGLang's encoders, and the servers that are told of them, by emulated ones."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from stages.adapters.load import read_encoder_load
from stages.adapters.server import EngineServer
from stages.adapters.sglang import SglangPrefill
from stages.adapters.sglang_encoders import SglangEncoder
from stages.adapters.watch import ServerUnfit
from stages.blobs import BlobSettings, BlobStore, inlined, open_store
from stages.emulator.config import EmulatorConfig, Kind, Role
from stages.engines import EngineRefused
from stages.limits import EngineLimits
from stages.types import Chat, EncodeJob, MediaItem, Modality, PrefillJob, Prompt, Sampling
from tests.fakes.emulator import Emulated, emulated
from tests.stages.emulator.kit import chat, png

LIMITS = EngineLimits()
ONE, OTHER, STRANGER = "http://10.0.0.1:1", "http://10.0.0.2:1", "http://10.0.0.3:1"


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return open_store(BlobSettings(dir=tmp_path / "blobs"))


@pytest.fixture
def language() -> Iterator[Emulated]:
    config = EmulatorConfig(kind=Kind.SGLANG, role=Role.PREFILL, language_only=True, lease_s=0.2)
    with emulated(config) as engine:
        yield engine


@pytest.fixture
def encoder() -> Iterator[Emulated]:
    with emulated(EmulatorConfig(kind=Kind.SGLANG, role=Role.ENCODE)) as engine:
        yield engine


def at(engine: Emulated) -> EngineServer:
    return EngineServer(kind="sglang", url=engine.url, model="emulated", encoders_called=True, start_s=0.1)


def listed(language: Emulated) -> list[str]:
    urls: list[str] = httpx.get(language.address.list_url + "/list_encoder_urls").json()["encoder_urls"]
    return sorted(urls)


def prefill_job(blobs: BlobStore, *, images: int) -> PrefillJob:
    item = MediaItem(
        modality=Modality.IMAGE,
        blob=blobs.put(png(), owner="r", ttl_s=60.0),
        content_hash="hash",
        width_px=1,
        height_px=1,
        frames=1,
        tokens=1,
    )
    parts: list[Any] = [{"type": "image_url", "image_url": {"url": "media:0"}}] * images
    body = inlined(msgspec.json.encode(chat("what", *parts)), 60.0)
    return PrefillJob(
        prompt=Prompt(token_ids=()),
        chat=Chat(body=body, items=(item,) * images),
        embeddings=(),
        sampling=Sampling(max_tokens=4),
        **_of("prefill"),
    )


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
    httpx.post(language.address.list_url + "/register_encoder_url", json={"url": STRANGER})
    engine.meet([ONE, OTHER])
    assert listed(language) == [ONE, OTHER]
    assert engine.load().encoders == (ONE, OTHER)
    httpx.request("DELETE", language.address.list_url + "/unregister_encoder_url", json={"url": ONE})
    engine.meet([ONE, OTHER])
    assert listed(language) == [ONE, OTHER]
    engine.meet([OTHER])
    assert listed(language) == [OTHER]
    assert engine.load().encoders == (OTHER,)
    engine.close()


def test_a_list_that_cannot_be_changed_stays_as_it_is_known(blobs: BlobStore) -> None:
    config = EmulatorConfig(kind=Kind.SGLANG, role=Role.PREFILL, language_only=True)
    with emulated(config) as language:
        engine = SglangPrefill(at(language), blobs, LIMITS)
        engine.meet([ONE])
    with pytest.raises(EngineRefused, match="/list_encoder_urls"):
        engine.meet([OTHER])
    assert engine.load().encoders == (ONE,)
    engine.close()


def test_media_wait_for_an_encoder_and_text_does_not(language: Emulated, blobs: BlobStore) -> None:
    engine = SglangPrefill(at(language), blobs, LIMITS)
    with pytest.raises(EngineRefused, match="no encoder to call yet"):
        engine.prefill(prefill_job(blobs, images=1))
    engine.prefill(prefill_job(blobs, images=0))
    engine.meet([ONE])
    engine.prefill(prefill_job(blobs, images=1))
    engine.close()


def test_a_server_that_has_its_own_encoders_is_told_of_none(language: Emulated, blobs: BlobStore) -> None:
    """As `--encoder-urls` has them, for services whose policy leaves encode out."""
    httpx.post(language.address.list_url + "/register_encoder_url", json={"url": STRANGER})
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


def test_a_server_that_does_more_than_encode_is_refused(language: Emulated, blobs: BlobStore) -> None:
    with pytest.raises(ServerUnfit, match="was not started with --encoder-only"):
        SglangEncoder(at(language), blobs, LIMITS)


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
