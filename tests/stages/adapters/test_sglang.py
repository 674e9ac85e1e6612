"""What SGLang servers are asked and refused for, by emulated ones."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from stages.adapters.events import counted, judge
from stages.adapters.server import EngineServer
from stages.adapters.sglang import SglangDecode, SglangPrefill
from stages.adapters.watch import ServerUnfit
from stages.blobs import BlobStore, inlined
from stages.emulator.config import EmulatorConfig, Kind, Role
from stages.engines import EngineRefused
from stages.limits import EngineLimits
from stages.types import Chat, DecodeJob, KVRef, PrefillJob, Prompt, Sampling
from tests.fakes.emulator import Emulated, emulated
from tests.stages.emulator.kit import chat, image, nothing_left, until


@pytest.fixture
def alone() -> Iterator[Emulated]:
    with emulated(EmulatorConfig(kind=Kind.SGLANG, role=Role.AGGREGATED)) as engine:
        yield engine


def at(engine: Emulated) -> EngineServer:
    return EngineServer(kind="sglang", url=engine.url, model="emulated")


def test_one_server_for_all_is_sent_no_meeting(alone: Emulated, blobs: BlobStore) -> None:
    job = DecodeJob(
        request_id="r",
        hop="decode",
        attempt=1,
        reply_to="g",
        model="emulated",
        deadline_unix_s=0.0,
        kv=None,
        sampling=Sampling(max_tokens=1),
    )
    engine = SglangDecode(at(alone), blobs, EngineLimits())
    body = engine.asked(job, chat("hello", image(1, uuid="x")))
    assert not {name for name in body if name.startswith("bootstrap") or name == "rid"}
    assert "uuid" not in body["messages"][0]["content"][1]
    engine.close()


def test_its_load_is_what_its_metrics_say(alone: Emulated, blobs: BlobStore) -> None:
    engine = SglangDecode(at(alone), blobs, EngineLimits())
    assert (engine.load().batch_size, engine.load().total_kv_bytes) == (0, 8192 * 16)
    engine.close()


def test_an_older_one_is_refused(blobs: BlobStore) -> None:
    config = EmulatorConfig(kind=Kind.SGLANG, role=Role.DECODE, version="0.5.9")
    with (
        emulated(config) as old,
        pytest.raises(ServerUnfit, match=r"is SGLang 0\.5\.9; at least 0\.5\.23 is needed"),
    ):
        SglangDecode(at(old), blobs, EngineLimits())


def test_one_that_does_not_prefill_for_others_is_refused(alone: Emulated, blobs: BlobStore) -> None:
    with pytest.raises(ServerUnfit, match="was not started with --disaggregation-mode prefill"):
        SglangPrefill(at(alone), blobs, EngineLimits())


@pytest.mark.parametrize(
    "answer",
    [
        b'data: {"error":{"message":"no encoder"}}\n\ndata: [DONE]\n\n',
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"abort"}]}\n\n',
        b'{"choices":[{"index":0,"finish_reason":"abort"}]}',
    ],
    ids=["an event", "an abort", "a body"],
)
def test_a_prefill_that_failed_is_known_by_what_it_answers(answer: bytes) -> None:
    """Whatever the status was: a stream has one before anything can fail."""
    with pytest.raises(EngineRefused):
        judge(answer, counted)
    judge(b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"length"}]}\n\n', counted)
    judge(b'{"choices":[{"index":0,"finish_reason":"length"}],"usage":{"completion_tokens":1}}', counted)


class Halves:
    """Both halves of a request, at a server each."""

    def __init__(self, prefill: Emulated, decode: Emulated, blobs: BlobStore, *, stream: bool) -> None:
        limits = EngineLimits()
        self._first = SglangPrefill(at(prefill), blobs, limits)
        self.second = SglangDecode(at(decode), blobs, limits)
        self._fields: Any = {
            "request_id": "r",
            "attempt": 1,
            "reply_to": "g",
            "model": "emulated",
            "deadline_unix_s": 4e9,
            "chat": Chat(body=inlined(msgspec.json.encode(chat("hello", stream=stream)), 60.0), items=()),
            "sampling": Sampling(max_tokens=1),
        }

    def meeting(self) -> KVRef:
        job = PrefillJob(hop="prefill", prompt=Prompt(token_ids=()), embeddings=(), **self._fields)
        return self._first.prefill(job)

    def decode(self, kv: KVRef) -> None:
        self.second.decode(DecodeJob(hop="decode", kv=kv, **self._fields), lambda chunk: None)

    def close(self) -> None:
        self._first.close()
        self.second.close()


def patient(role: Role) -> EmulatorConfig:
    """Return a server that waits for the other half as long as SGLang does."""
    return EmulatorConfig(kind=Kind.SGLANG, role=role, lease_s=300.0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_decode_ends_with_the_prefill_that_it_waits_for(blobs: BlobStore, stream: bool) -> None:
    """Neither server keeps anything; the other half would be waited for for minutes."""
    with emulated(patient(Role.PREFILL)) as prefill, emulated(patient(Role.DECODE)) as decode:
        halves = Halves(prefill, decode, blobs, stream=stream)
        prefill.set_faults(error_rate=1, error_status=502)
        with pytest.raises(EngineRefused, match="502: Injected fault"):
            halves.decode(halves.meeting())
        until(lambda: nothing_left(decode) and nothing_left(prefill))
        halves.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_prefill_that_has_gone_is_named_and_decode_goes_on(blobs: BlobStore, stream: bool) -> None:
    with emulated(patient(Role.DECODE)) as decode:
        with emulated(patient(Role.PREFILL)) as prefill:
            halves = Halves(prefill, decode, blobs, stream=stream)
            kv = halves.meeting()
        with pytest.raises(EngineRefused, match=f"connection to {prefill.url}"):
            halves.decode(kv)
        until(lambda: nothing_left(decode))
        assert halves.second.failed is None
        halves.close()
