"""SGLang servers that are told to prefill instead of decode, and the reverse, by emulated ones."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from stages.adapters.bodies import restored
from stages.adapters.server import EngineServer
from stages.adapters.sglang import Meeting, SglangDecode, SglangPrefill
from stages.adapters.watch import ServerUnfit
from stages.blobs import BlobStore, inlined
from stages.emulator.config import EmulatorConfig, EngineTiming, Kind, Role
from stages.engines import EngineRefused, RoleRefused
from stages.limits import EngineLimits
from stages.types import (
    Chat,
    DecodeJob,
    FinishReason,
    PrefillJob,
    Prompt,
    Sampling,
    Stage,
)
from tests.fakes.emulator import Emulated, emulated
from tests.stages.adapters.kit import kept_image
from tests.stages.emulator.kit import chat, nothing_left, until

LIMITS = EngineLimits()
Servers = dict[Role, Emulated]


@contextmanager
def pair(timing: EngineTiming | None = None, **fields: Any) -> Iterator[Servers]:
    config = EmulatorConfig(kind=Kind.SGLANG, role=Role.PREFILL, lease_s=300.0, role_switch=True)
    with (
        emulated(replace(config, **fields), timing) as prefill,
        emulated(replace(config, role=Role.DECODE), timing) as decode,
    ):
        yield {Role.PREFILL: prefill, Role.DECODE: decode}


def at(engine: Emulated, *peers: Emulated) -> EngineServer:
    urls = tuple(peer.url for peer in peers)
    return EngineServer(kind="sglang", url=engine.url, model="emulated", switches_roles=True, peers=urls)


def mode(engine: Emulated) -> str:
    (state,) = engine.http.get("/server_info").json()["internal_states"]
    return str(state["disaggregation_mode"])


FIELDS: Any = {
    "request_id": "r",
    "attempt": 1,
    "reply_to": "g",
    "model": "emulated",
    "deadline_unix_s": 4e9,
    "chat": Chat(body=inlined(msgspec.json.encode(chat("hello")), 60.0), items=()),
    "sampling": Sampling(max_tokens=24),
}


def prefill_job() -> PrefillJob:
    return PrefillJob(hop="prefill", prompt=Prompt(token_ids=()), embeddings=(), **FIELDS)


def with_image(blobs: BlobStore) -> Chat:
    return replace(FIELDS["chat"], items=(kept_image(blobs),))


def test_servers_change_places_and_work_together_as_before(blobs: BlobStore) -> None:
    """What decode's graphs take is known from a server that decodes: without that it would be refused."""
    with pair() as servers:
        first, second = servers[Role.PREFILL], servers[Role.DECODE]
        decode = SglangDecode(at(first, second), blobs, LIMITS)
        prefill = SglangPrefill(at(second), blobs, LIMITS)
        assert (mode(first), mode(second)) == ("decode", "prefill")
        decode.meet(Stage.PREFILL, [second.url])
        job = DecodeJob(hop="decode", kv=prefill.prefill(prefill_job()), **FIELDS)
        assert decode.decode(job, lambda chunk: None) is FinishReason.LENGTH
        until(lambda: nothing_left(first) and nothing_left(second))
        prefill.close()
        decode.close()


def test_one_that_does_its_stage_already_is_left_as_it_is(blobs: BlobStore) -> None:
    with pair() as servers:
        SglangDecode(at(servers[Role.PREFILL], servers[Role.DECODE]), blobs, LIMITS).close()
        SglangDecode(at(servers[Role.PREFILL]), blobs, LIMITS).close()
        assert mode(servers[Role.PREFILL]) == "decode"


def test_a_busy_one_changes_once_it_is_idle(blobs: BlobStore) -> None:
    with pair() as servers:
        server = servers[Role.PREFILL]
        body = chat("hello", bootstrap_host="h", bootstrap_port=1, bootstrap_room=7, rid="x")
        asking = threading.Thread(target=server.chat, args=(body,))
        asking.start()
        until(lambda: server.state()["leases"] == 1)
        ending = threading.Timer(0.5, server.http.post, ["/abort_request"], {"json": {"rid": "x"}})
        ending.start()
        SglangDecode(at(server, servers[Role.DECODE]), blobs, LIMITS).close()
        assert ending.finished.is_set()
        assert mode(server) == "decode"
        asking.join()


@pytest.mark.parametrize(
    ("fields", "peers", "said"),
    [
        ({"role_switch": False}, True, "no --enable-pd-role-switch"),
        ({}, False, "decode_cuda_graph_memory_gb is required"),
    ],
    ids=["without the flag", "no peer to ask"],
)
def test_one_that_does_not_change_is_named(
    blobs: BlobStore, monkeypatch: pytest.MonkeyPatch, fields: Any, peers: bool, said: str
) -> None:
    monkeypatch.setattr("stages.adapters.sglang_role._IDLE_S", 0.1)
    with pair(**fields) as servers:
        known = [servers[Role.DECODE]] if peers else []
        with pytest.raises(RoleRefused, match=said):
            SglangDecode(at(servers[Role.PREFILL], *known), blobs, LIMITS)
        assert mode(servers[Role.PREFILL]) == "prefill"


def test_one_that_is_not_to_be_changed_is_unfit(blobs: BlobStore) -> None:
    with (
        pair() as servers,
        pytest.raises(ServerUnfit, match="not started with --disaggregation-mode prefill"),
    ):
        SglangPrefill(replace(at(servers[Role.DECODE]), switches_roles=False), blobs, LIMITS)


def test_no_half_is_sent_to_one_that_may_change(blobs: BlobStore) -> None:
    """Two halves that both decode would wait for each other."""
    with pair() as servers:
        prefill = SglangPrefill(at(servers[Role.PREFILL]), blobs, LIMITS)
        decode = SglangDecode(at(servers[Role.DECODE]), blobs, LIMITS)
        job = DecodeJob(hop="decode", kv=prefill.prefill(prefill_job()), **FIELDS)
        decode.meet(Stage.PREFILL, ["http://another:1"])
        with pytest.raises(EngineRefused, match="takes no more work as one that prefills"):
            decode.decode(job, lambda chunk: None)
        assert [server.state()["requests"] for server in servers.values()] == [{}, {}]
        prefill.close()
        decode.close()


def test_whoever_has_a_half_of_a_request_is_in_the_load(blobs: BlobStore) -> None:
    with pair(EngineTiming(prefill_s=lambda tokens: 0.3)) as servers:
        prefill = SglangPrefill(at(servers[Role.PREFILL]), blobs, LIMITS)
        decode = SglangDecode(at(servers[Role.DECODE]), blobs, LIMITS)
        decode.meet(Stage.PREFILL, [servers[Role.PREFILL].url])
        job = DecodeJob(hop="decode", kv=prefill.prefill(prefill_job()), **FIELDS)
        decoding = threading.Thread(target=decode.decode, args=(job, lambda chunk: None))
        decoding.start()
        until(lambda: decode.load().prefills == (servers[Role.PREFILL].url,))
        decoding.join()
        assert decode.load().prefills == ()
        prefill.close()
        decode.close()


def test_one_that_was_started_to_prefill_calls_encoders_when_it_decodes(blobs: BlobStore) -> None:
    """Without any it is sent no media; and one that was started to decode encodes by itself."""
    with pair(language_only=True) as servers:
        first, second = servers[Role.PREFILL], servers[Role.DECODE]
        decode = SglangDecode(replace(at(first, second), encoders_called=True), blobs, LIMITS)
        assert decode.meets == {Stage.ENCODE, Stage.PREFILL}
        decode.meet(Stage.ENCODE, ["http://10.0.0.1:1"])
        assert decode.load().encoders == ("http://10.0.0.1:1",)
        decode.meet(Stage.ENCODE, [])
        decode.meet(Stage.PREFILL, [second.url])
        prefill = SglangPrefill(at(second), blobs, LIMITS)
        shown = with_image(blobs)
        job = DecodeJob(hop="decode", kv=prefill.prefill(prefill_job()), **FIELDS | {"chat": shown})
        with pytest.raises(EngineRefused, match="no encoder to call yet"):
            decode.decode(job, lambda chunk: None)
        prefill.close()
        decode.close()


def test_one_that_was_started_to_decode_encodes_by_itself_when_it_prefills(blobs: BlobStore) -> None:
    with pair(language_only=True) as servers:
        prefill = SglangPrefill(replace(at(servers[Role.DECODE]), encoders_called=True), blobs, LIMITS)
        assert prefill.meets == frozenset()
        kv = prefill.prefill(replace(prefill_job(), chat=with_image(blobs)))
        assert msgspec.convert(restored(kv.blob, blobs.get), Meeting).list_url == ""
        prefill.close()
