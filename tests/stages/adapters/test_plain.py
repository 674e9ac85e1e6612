"""Any OpenAI server as an engine: what it is sent, and what is made of events without ids."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stages.adapters.plain import PlainDecode
from stages.adapters.server import EngineServer
from stages.adapters.watch import ServerUnfit
from stages.blobs import BlobStore
from stages.engines import AnswerDiverged
from stages.limits import EngineLimits
from stages.types import FinishReason, TokenChunk
from tests.fakes.vllm_server import VllmServer, answering, streaming
from tests.stages.adapters.test_vllm import DONE, at, decode_job, server  # noqa: F401


def told(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}
    return f"data: {json.dumps({'id': 'x', 'choices': [choice]})}\n\n".encode()


@pytest.fixture
def engine(server: VllmServer, blobs: BlobStore) -> Iterator[PlainDecode]:  # noqa: F811
    made = PlainDecode(at(server), blobs, EngineLimits())
    yield made
    made.close()


def decoded(engine: PlainDecode, blobs: BlobStore, **job: Any) -> list[TokenChunk]:
    chunks: list[TokenChunk] = []
    engine.decode(replace(decode_job(blobs, **job), kv=None), chunks.append)
    return chunks


def test_the_clients_body_reaches_it_without_what_it_may_refuse(
    engine: PlainDecode,
    server: VllmServer,  # noqa: F811
    blobs: BlobStore,
) -> None:
    server.chat = streaming(told("a"), told("", "stop"), DONE)
    decoded(engine, blobs, stream=True)
    ((_, body),) = server.bodies
    assert body["tools"] == [{"type": "function"}] and body["max_tokens"] == 9
    assert not body.keys() & {"return_token_ids", "kv_transfer_params", "ec_transfer_params"}
    part = body["messages"][0]["content"][0]
    assert part["image_url"]["url"].startswith("data:image/png;base64,") and "uuid" not in part


def test_each_event_counts_as_a_token_and_is_passed_on_as_it_came(
    engine: PlainDecode,
    server: VllmServer,  # noqa: F811
    blobs: BlobStore,
) -> None:
    events = [told("a"), told("b"), told("c"), told("", "length")]
    server.chat = streaming(*events, DONE)
    chunks = decoded(engine, blobs, stream=True)
    assert sum(len(chunk.tokens) for chunk in chunks) == 3
    assert chunks[-1].finish is FinishReason.LENGTH
    assert "".join(chunk.raw for chunk in chunks).encode() == b"".join(events)


def test_a_second_try_goes_on_where_it_says_the_same_and_is_told_where_not(
    engine: PlainDecode,
    server: VllmServer,  # noqa: F811
    blobs: BlobStore,
) -> None:
    server.chat = streaming(told("a"), told("b"), told("c", "stop"), DONE)
    said = tuple(token for chunk in decoded(engine, blobs, stream=True) for token in chunk.tokens)
    again = decoded(engine, blobs, generated=said[:2], stream=True)
    assert [(chunk.index, chunk.tokens) for chunk in again] == [(2, said[2:])]
    with pytest.raises(AnswerDiverged):
        decoded(engine, blobs, generated=(said[1],), stream=True)


def test_an_answer_in_one_piece_has_as_many_tokens_as_it_says(
    engine: PlainDecode,
    server: VllmServer,  # noqa: F811
    blobs: BlobStore,
) -> None:
    message = {"role": "assistant", "content": "abc"}
    server.chat = answering(
        {"choices": [{"message": message, "finish_reason": "stop"}], "usage": {"completion_tokens": 7}}
    )
    (chunk,) = decoded(engine, blobs)
    assert len(chunk.tokens) == 7 and json.loads(chunk.raw)["choices"][0]["message"] == message


def test_a_server_that_lists_no_models_is_unfit(tmp_path: Path, blobs: BlobStore) -> None:
    nobody = EngineServer(kind="openai", url="http://127.0.0.1:9", model="m", start_s=0.1)
    with pytest.raises(ServerUnfit, match="was not healthy within"):
        PlainDecode(nobody, blobs, EngineLimits())
