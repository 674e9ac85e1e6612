"""Engines by vLLM servers: what they send, what they make of answers, and how they end."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from stages.adapters.bodies import stored
from stages.adapters.calls import EngineGone
from stages.adapters.server import EngineServer
from stages.adapters.vllm import VllmDecode, VllmEncode, VllmPrefill
from stages.adapters.watch import ServerUnfit
from stages.blobs import BlobStore, inlined
from stages.engines import (
    AnswerDiverged,
    BlobUnavailable,
    DeadlineExceeded,
    EngineRefused,
    InvalidWork,
    WorkCancelled,
)
from stages.limits import EngineLimits
from stages.types import (
    Chat,
    DecodeJob,
    EmbeddingRef,
    EncodeJob,
    FinishReason,
    Job,
    KVRef,
    PrefillJob,
    Prompt,
    Sampling,
    TokenChunk,
)
from tests.fakes.vllm_server import VllmServer, answering, event, forever, streaming
from tests.stages.adapters.kit import kept_image

PNG = b"\x89PNG\r\n\x1a\n..."
DONE = b"data: [DONE]\n\n"
EC = {"hash": {"item_indices": [0], "metadata": {"image_grid_thw": [1, 8, 8]}}}
KV = {"do_remote_prefill": True, "remote_engine_id": "e", "remote_num_tokens": 36}


@pytest.fixture
def server() -> Iterator[VllmServer]:
    with VllmServer() as running:
        yield running


def at(server: VllmServer, **options: float) -> EngineServer:
    return EngineServer(url=server.url, model="tiny", **options)  # type: ignore[arg-type]


def fields(hop: str, deadline_s: float = 60.0) -> dict[str, object]:
    return {
        "request_id": "r",
        "hop": hop,
        "attempt": 1,
        "reply_to": "g",
        "model": "tiny",
        "deadline_unix_s": time.time() + deadline_s,
    }


def chat(blobs: BlobStore, **more: object) -> Chat:
    part = {"type": "image_url", "image_url": {"url": "media:0", "detail": "low"}, "uuid": "planted"}
    messages = [{"role": "user", "content": [part, {"type": "text", "text": "what"}]}]
    body = {"model": "tiny", "messages": messages, "max_tokens": 9, "tools": [{"type": "function"}], **more}
    return Chat(body=inlined(json.dumps(body).encode(), 60.0), items=(kept_image(blobs, PNG),))


def prefill_job(blobs: BlobStore, **more: object) -> PrefillJob:
    ref = EmbeddingRef(blob=stored(EC, 60.0), content_hash="c0ffee", tokens=16, dim=0)
    return PrefillJob(
        **fields("prefill"),  # type: ignore[arg-type]
        prompt=Prompt(token_ids=()),
        embeddings=(ref,),
        sampling=Sampling(max_tokens=9),
        chat=chat(blobs, **more),
    )


def decode_job(
    blobs: BlobStore,
    generated: tuple[int, ...] = (),
    deadline_s: float = 60.0,
    until_s: float = 30.0,
    **more: object,
) -> DecodeJob:
    return DecodeJob(
        **fields("decode", deadline_s),  # type: ignore[arg-type]
        kv=KVRef(blob=stored(KV, 60.0), tokens=36, first_token=7, until_unix_s=time.time() + until_s),
        sampling=Sampling(max_tokens=9),
        generated=generated,
        chat=chat(blobs, **more),
    )


def test_encode_sends_one_item_by_its_content_and_keeps_the_connectors_answer(
    server: VllmServer, blobs: BlobStore
) -> None:
    server.chat = answering({"choices": [], "ec_transfer_params": EC})
    engine = VllmEncode(at(server), blobs, EngineLimits())
    ref = engine.encode(EncodeJob(**fields("encode.3"), item=kept_image(blobs, PNG)))  # type: ignore[arg-type]
    ((request_id, body),) = server.bodies
    assert request_id.startswith("r:3:")
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    part = {"type": "image_url", "image_url": {"url": url}, "uuid": "c0ffee"}
    assert body["messages"] == [{"role": "user", "content": [part]}]
    assert (body["max_tokens"], body["stream"]) == (1, False)
    assert json.loads(blobs.get(ref.blob)) == EC and ref.tokens == 16
    engine.close()


def test_an_encoder_without_a_connector_is_refused(server: VllmServer, blobs: BlobStore) -> None:
    server.chat = answering({"choices": [], "ec_transfer_params": None})
    engine = VllmEncode(at(server), blobs, EngineLimits())
    with pytest.raises(EngineRefused, match="ec_producer"):
        engine.encode(EncodeJob(**fields("encode.0"), item=kept_image(blobs, PNG)))  # type: ignore[arg-type]
    engine.close()


def test_prefill_asks_for_one_token_and_a_cache_for_elsewhere(server: VllmServer, blobs: BlobStore) -> None:
    usage = {"prompt_tokens": 36, "prompt_tokens_details": {"cached_tokens": 8}}
    server.chat = answering({"choices": [{"token_ids": [7]}], "usage": usage, "kv_transfer_params": KV})
    engine = VllmPrefill(at(server), blobs, EngineLimits())
    job = prefill_job(
        blobs, stream=True, stream_options={"include_usage": True}, min_tokens=4, max_completion_tokens=9
    )
    ref = engine.prefill(job)
    ((request_id, body),) = server.bodies
    assert request_id == "r"
    assert (body["max_tokens"], body["max_completion_tokens"], body["stream"]) == (1, 1, False)
    assert not body.keys() & {"stream_options", "min_tokens"}
    assert body["tools"] == [{"type": "function"}]
    assert body["ec_transfer_params"] == EC
    assert body["kv_transfer_params"]["do_remote_decode"] is True
    part = body["messages"][0]["content"][0]
    assert part["uuid"] == "c0ffee" and part["image_url"]["detail"] == "low"
    assert (ref.tokens, ref.cached_tokens, ref.first_token) == (36, 8, 7)
    assert json.loads(blobs.get(ref.blob)) == KV
    assert 25.0 < ref.until_unix_s - time.time() < 31.0
    engine.close()


def test_decode_passes_events_on_with_their_tokens_and_without_ids(
    server: VllmServer, blobs: BlobStore
) -> None:
    usage = b'data: {"id":"chatcmpl-r","choices":[],"usage":{"completion_tokens":3}}\n\n'
    server.chat = streaming(
        event("", [], role="assistant"), event("a", [1]), event("bc", [2, 3], "length"), usage, DONE
    )
    engine = VllmDecode(at(server), blobs, EngineLimits())
    chunks: list[TokenChunk] = []
    assert engine.decode(decode_job(blobs, stream=True), chunks.append) is FinishReason.LENGTH
    ((_, body),) = server.bodies
    assert body["kv_transfer_params"] == KV and body["max_tokens"] == 9 and "ec_transfer_params" not in body
    assert [c.index for c in chunks] == [0, *([1] if len(chunks) > 1 else [])]
    assert sum((c.tokens for c in chunks), ()) == (1, 2, 3)
    raw = "".join(c.raw for c in chunks)
    assert "token_ids" not in raw and "[DONE]" not in raw
    assert raw.count("data: ") == 4 and raw.endswith(usage.decode())
    assert all(c.tokens or c.finish for c in chunks)
    engine.close()


def test_decode_without_a_kv_cache_prefills_with_the_embeddings_that_it_is_given(
    server: VllmServer, blobs: BlobStore
) -> None:
    server.chat = streaming(event("a", [1], "stop"), DONE)
    engine = VllmDecode(at(server), blobs, EngineLimits())
    ref = EmbeddingRef(blob=stored(EC, 60.0), content_hash="c0ffee", tokens=16, dim=0)
    alone = replace(decode_job(blobs, stream=True), kv=None, embeddings=(ref,))
    engine.decode(alone, lambda chunk: None)
    ((_, body),) = server.bodies
    assert body["ec_transfer_params"] == EC and "kv_transfer_params" not in body
    engine.close()


def test_an_answer_in_one_piece_is_passed_on_whole(server: VllmServer, blobs: BlobStore) -> None:
    choice = {
        "message": {"content": 'a,"token_ids":[3]', "tool_calls": []},
        "finish_reason": "tool_calls",
        "token_ids": [1, 2],
    }
    server.chat = answering({"id": "x", "choices": [choice], "prompt_token_ids": [5]})
    engine = VllmDecode(at(server), blobs, EngineLimits())
    chunks: list[TokenChunk] = []
    engine.decode(decode_job(blobs), chunks.append)
    (chunk,) = chunks
    assert (chunk.tokens, chunk.finish) == ((1, 2), FinishReason.TOOL_CALLS)
    del choice["token_ids"]
    assert json.loads(chunk.raw) == {"id": "x", "choices": [choice]}
    engine.close()


def test_a_second_try_goes_on_behind_what_the_client_has(server: VllmServer, blobs: BlobStore) -> None:
    server.chat = streaming(
        event("", [], role="assistant"),
        event("ab", [1, 2]),
        event("cd", [3, 4]),
        event("e", [5], "stop"),
        DONE,
    )
    server.detokenized = {(1, 2, 3): "abc", (1, 2): "ab"}
    engine = VllmDecode(at(server), blobs, EngineLimits())
    chunks: list[TokenChunk] = []
    engine.decode(decode_job(blobs, generated=(1, 2, 3), stream=True), chunks.append)
    assert chunks[0].index == 3
    assert sum((c.tokens for c in chunks), ()) == (4, 5)
    events = [json.loads(e[6:]) for e in "".join(c.raw for c in chunks).strip().split("\n\n")]
    assert [e["choices"][0]["delta"].get("content") for e in events] == ["d", "e"]
    engine.close()


@pytest.mark.parametrize("events", [[event("x", [9])], [event("a", [1], "stop"), DONE]])
def test_a_second_try_that_says_something_else_is_told(
    server: VllmServer, blobs: BlobStore, events: list[bytes]
) -> None:
    server.chat = streaming(*events)
    engine = VllmDecode(at(server), blobs, EngineLimits())
    with pytest.raises(AnswerDiverged):
        engine.decode(decode_job(blobs, generated=(1, 2), stream=True), lambda _: None)
    engine.close()


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (answering({"error": {"message": "too long"}}, 400), InvalidWork),
        (answering({"error": {"message": "no such model"}}, 404), EngineRefused),
        (answering({"error": {"message": "busy"}}, 429), EngineRefused),
        (answering({"error": {"message": "Internal server error"}}, 500), EngineRefused),
        (streaming(event("a", [1])), EngineRefused),
        (streaming(event("a", [1]), event("", [], "abort"), DONE), EngineRefused),
        (streaming(b'data: {"error":{"message":"dead"}}\n\n'), EngineRefused),
    ],
)
def test_failures_of_a_decode(
    server: VllmServer, blobs: BlobStore, handler: object, error: type[Exception]
) -> None:
    server.chat = handler  # type: ignore[assignment]
    engine = VllmDecode(at(server), blobs, EngineLimits())
    with pytest.raises(error):
        engine.decode(decode_job(blobs, stream=True), lambda _: None)
    engine.close()


def test_silence_is_a_refusal(server: VllmServer, blobs: BlobStore) -> None:
    server.chat = streaming(event("a", [1]), then=forever)
    engine = VllmDecode(at(server, silence_s=0.2), blobs, EngineLimits())
    with pytest.raises(EngineRefused, match="silent"):
        engine.decode(decode_job(blobs, stream=True), lambda _: None)
    engine.close()


def test_a_cache_whose_lease_is_over_is_not_fetched(server: VllmServer, blobs: BlobStore) -> None:
    engine = VllmDecode(at(server), blobs, EngineLimits())
    with pytest.raises(BlobUnavailable, match="lease"):
        engine.decode(decode_job(blobs, until_s=1.0), lambda _: None)
    assert not server.bodies
    engine.close()


def test_cancelling_closes_the_connection(server: VllmServer, blobs: BlobStore) -> None:
    server.chat = streaming(event("a", [1]), then=forever)
    engine = VllmDecode(at(server), blobs, EngineLimits())
    job = decode_job(blobs, stream=True)
    with pytest.raises(WorkCancelled):
        engine.decode(job, lambda _: engine.cancel(job.key))
    assert server.closed.wait(5.0)
    engine.close()


def test_the_deadline_closes_the_connection(server: VllmServer, blobs: BlobStore) -> None:
    server.chat = streaming(event("a", [1]), then=forever)
    engine = VllmDecode(at(server), blobs, EngineLimits())
    with pytest.raises(DeadlineExceeded):
        engine.decode(decode_job(blobs, deadline_s=0.3, stream=True), lambda _: None)
    assert server.closed.wait(5.0)
    engine.close()


def test_a_paused_decode_is_not_read_on(server: VllmServer, blobs: BlobStore) -> None:
    goes_on = threading.Event()
    server.chat = streaming(event("a", [1]), event("b", [2], "stop"), DONE, before_last=goes_on)
    engine = VllmDecode(at(server), blobs, EngineLimits())
    job = decode_job(blobs, stream=True)
    engine.pause(job.key, True)
    ended = threading.Event()
    threading.Thread(target=lambda: (engine.decode(job, lambda _: goes_on.set()), ended.set())).start()
    assert not ended.wait(0.3)
    engine.pause(job.key, False)
    goes_on.set()
    assert ended.wait(5.0)
    engine.close()


def test_a_server_that_is_gone_ends_its_worker(server: VllmServer, blobs: BlobStore) -> None:
    engine = VllmDecode(at(server), blobs, EngineLimits())
    server.stop()
    with pytest.raises(EngineGone):
        engine.decode(decode_job(blobs, stream=True), lambda _: None)
    deadline_s = time.monotonic() + 10.0
    while engine.failed is None:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    engine.close()


def test_load_is_the_servers(server: VllmServer, blobs: BlobStore) -> None:
    engine = VllmPrefill(at(server, token_bytes=4), blobs, EngineLimits())
    load = engine.load()
    assert (load.total_kv_bytes, load.free_kv_bytes) == (128 * 256 * 4, 128 * 256 * 3)
    assert (load.batch_size, load.cache_queries, load.cache_hits) == (2, 40, 8)
    engine.close()


def test_an_old_version_and_a_silent_server_are_refused(server: VllmServer, blobs: BlobStore) -> None:
    server.version = "0.11.2"
    with pytest.raises(ServerUnfit, match=r"0\.32"):
        VllmDecode(at(server), blobs, EngineLimits())
    server.stop()
    with pytest.raises(ServerUnfit, match="not healthy"):
        VllmDecode(at(server, start_s=0.1), blobs, EngineLimits())


def test_jobs_travel_as_json(blobs: BlobStore) -> None:
    import msgspec

    job: Job = decode_job(blobs, generated=(1,), stream=True)
    assert msgspec.convert(msgspec.to_builtins(job), DecodeJob) == job
