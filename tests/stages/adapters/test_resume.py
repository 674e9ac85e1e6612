"""Answers that were lost and are gone on with, by emulated vLLM servers."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.adapters.resume import behind
from stages.adapters.server import EngineServer
from stages.adapters.vllm import VllmDecode, VllmPrefill
from stages.blobs import BlobStore, inlined
from stages.emulator.config import EmulatorConfig, Role
from stages.engines import AnswerDiverged
from stages.limits import EngineLimits
from stages.types import Chat, DecodeJob, KVRef, PrefillJob, Prompt, Sampling, TokenChunk
from tests.fakes.emulator import Emulated, emulated
from tests.stages.adapters.kit import kept_image
from tests.stages.emulator.kit import chat

TOKENS = 30
KNOWN = 11


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Role, Emulated]]:
    folder = str(tmp_path_factory.mktemp("embeddings"))
    with (
        emulated(EmulatorConfig(role=Role.PREFILL, ec_dir=folder)) as prefill,
        emulated(EmulatorConfig(role=Role.DECODE, ec_dir=folder)) as decode,
    ):
        yield {Role.PREFILL: prefill, Role.DECODE: decode}


@pytest.fixture
def prefill(engines: dict[Role, Emulated], blobs: BlobStore) -> Iterator[VllmPrefill]:
    engine = VllmPrefill(at(engines[Role.PREFILL]), blobs, EngineLimits())
    yield engine
    engine.close()


@pytest.fixture
def decode(engines: dict[Role, Emulated], blobs: BlobStore) -> Iterator[VllmDecode]:
    engine = VllmDecode(at(engines[Role.DECODE]), blobs, EngineLimits())
    yield engine
    engine.close()
    engines[Role.DECODE].set_faults(drift=False)


def at(engine: Emulated) -> EngineServer:
    return EngineServer(url=engine.url, model="emulated")


def said_by_client(**fields: Any) -> dict[str, Any]:
    part = {"type": "image_url", "image_url": {"url": "media:0"}}
    return chat("look", part, max_tokens=TOKENS, stream=True, return_token_ids=None, **fields)


def asked(blobs: BlobStore, **fields: Any) -> Chat:
    return Chat(body=inlined(json.dumps(said_by_client(**fields)).encode(), 60.0), items=(kept_image(blobs),))


def of_job(hop: str) -> dict[str, Any]:
    deadline = time.time() + 30.0
    fields = {"request_id": "r", "hop": hop, "attempt": 1, "reply_to": "g", "model": "emulated"}
    return fields | {"deadline_unix_s": deadline, "sampling": Sampling(max_tokens=TOKENS)}


def test_the_default_that_a_render_leaves_out_is_counted() -> None:
    """`/generate` would go on for as long as there is room."""
    request = behind({"token_ids": [1], "sampling_params": {}}, (2, 3))
    assert request and request["sampling_params"]["max_tokens"] == 14


def test_an_answer_that_was_whole_is_not_gone_on_with() -> None:
    assert behind({"token_ids": [1], "sampling_params": {"max_tokens": 2}}, (2, 3)) is None


Ask = Callable[..., tuple[KVRef, list[TokenChunk]]]


@pytest.fixture
def ask(prefill: VllmPrefill, decode: VllmDecode, blobs: BlobStore) -> Ask:
    """Send a request through both engines, which are to go on behind `generated`."""

    def run(generated: tuple[int, ...] = (), **fields: Any) -> tuple[KVRef, list[TokenChunk]]:
        body, chunks = asked(blobs, **fields), []
        filled = PrefillJob(
            prompt=Prompt(token_ids=()), embeddings=(), generated=generated, chat=body, **of_job("prefill")
        )
        kv = prefill.prefill(filled)
        job = DecodeJob(kv=kv, generated=generated, chat=body, **of_job("decode"))
        decode.decode(job, chunks.append)
        return kv, chunks

    return run


def tokens_of(chunks: list[TokenChunk]) -> tuple[int, ...]:
    return tuple(token for chunk in chunks for token in chunk.tokens)


def events_of(chunks: list[TokenChunk]) -> list[dict[str, Any]]:
    lines = [line for chunk in chunks for line in chunk.raw.split("\n\n") if line]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def text_of(chunks: list[TokenChunk]) -> str:
    return "".join(
        choice["delta"].get("content") or "" for event in events_of(chunks) for choice in event["choices"]
    )


def test_a_lost_answer_is_gone_on_with(ask: Ask, engines: dict[Role, Emulated]) -> None:
    """No token that the client has is decoded again, and the KV cache of all that is before is fetched."""
    usage = {"stream_options": {"include_usage": True}}
    _, whole = ask(**usage)
    said = tokens_of(whole)[:KNOWN]
    fetches = engines[Role.DECODE].state()["fetches"]
    kv, rest = ask(said, **usage)
    assert (rest[0].index, tokens_of(rest)) == (KNOWN, tokens_of(whole)[KNOWN:])
    assert text_of(whole).endswith(text_of(rest))
    assert kv.generated == KNOWN
    assert engines[Role.DECODE].state()["fetches"] == fetches + 1
    assert events_of(rest)[-1]["usage"] == events_of(whole)[-1]["usage"]
    names = ("id", "object", "model")
    assert {tuple(e[n] for n in names) for e in events_of(rest)} == {
        tuple(events_of(whole)[0][n] for n in names)
    }


def test_ids_of_tokens_are_for_those_who_ask(ask: Ask) -> None:
    _, whole = ask()
    _, rest = ask(tokens_of(whole)[:KNOWN])
    assert "token_ids" not in rest[0].raw


def test_an_answer_that_would_not_come_out_the_same_is_gone_on_with(
    ask: Ask, engines: dict[Role, Emulated]
) -> None:
    engines[Role.DECODE].set_faults(drift=True)
    _, whole = ask()
    _, rest = ask(tokens_of(whole)[:KNOWN])
    assert (rest[0].index, len(tokens_of(rest))) == (KNOWN, TOKENS - KNOWN)


@pytest.mark.parametrize(
    "field", [{"stop": ["zz"]}, {"tools": [{"type": "function"}]}, {"frequency_penalty": 0.5}]
)
def test_what_begins_anew_with_another_prompt_is_started_over(ask: Ask, field: dict[str, Any]) -> None:
    _, whole = ask(**field)
    kv, rest = ask(tokens_of(whole)[:KNOWN], **field)
    assert kv.generated == 0
    assert tokens_of(rest) == tokens_of(whole)[KNOWN:]


def test_an_answer_that_has_to_start_over_and_differs_is_refused(
    ask: Ask, engines: dict[Role, Emulated]
) -> None:
    engines[Role.DECODE].set_faults(drift=True)
    _, whole = ask(stop=["zz"])
    with pytest.raises(AnswerDiverged):
        ask(tokens_of(whole)[:KNOWN], stop=["zz"])


def test_a_decode_server_that_prefills_too_goes_on(decode: VllmDecode, blobs: BlobStore, ask: Ask) -> None:
    _, whole = ask()
    rest: list[TokenChunk] = []
    job = DecodeJob(kv=None, generated=tokens_of(whole)[:KNOWN], chat=asked(blobs), **of_job("decode"))
    decode.decode(job, rest.append)
    assert tokens_of(rest) == tokens_of(whole)[KNOWN:]


def test_servers_without_the_endpoints_start_over(blobs: BlobStore, tmp_path: Path) -> None:
    """Also behind a KV cache that a server with them has left: it stands for more than the prompt."""
    config = EmulatorConfig(role=Role.DECODE, ec_dir=str(tmp_path), scale_out=False)
    with emulated(config) as server:
        engine = VllmDecode(at(server), blobs, EngineLimits())
        whole: list[TokenChunk] = []
        engine.decode(DecodeJob(kv=None, chat=asked(blobs), **of_job("decode")), whole.append)
        params = inlined(b'{"do_remote_prefill": true}', 60.0)
        kv = KVRef(blob=params, tokens=99, first_token=0, generated=KNOWN)
        rest: list[TokenChunk] = []
        job = DecodeJob(kv=kv, generated=tokens_of(whole)[:KNOWN], chat=asked(blobs), **of_job("decode"))
        engine.decode(job, rest.append)
        engine.close()
    assert tokens_of(rest) == tokens_of(whole)[KNOWN:]
