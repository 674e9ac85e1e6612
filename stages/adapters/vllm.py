"""vLLM servers that encode (ECConnector), prefill and decode (KV connector) for one another.

The requests are those of vLLM's own proxies: `disagg_epd_proxy.py` among its examples and
`toy_proxy_server.py` among the tests of its NIXL connector.
"""

import secrets
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import msgspec

from stages.adapters.bodies import (
    Json,
    chat_body,
    decode_body,
    encode_body,
    prefill_body,
    restored,
    stored,
)
from stages.adapters.calls import CHAT, Calls
from stages.adapters.events import Chunks, EventReader, Piece, piece
from stages.adapters.server import EngineServer
from stages.adapters.watch import Watch
from stages.blobs import BlobStore
from stages.engines import BlobUnavailable, Emit, EngineRefused
from stages.limits import EngineLimits
from stages.types import (
    DecodeJob,
    EmbeddingRef,
    EncodeJob,
    EngineLoad,
    FinishReason,
    Job,
    KVRef,
    PrefillJob,
)

_LEASE_MARGIN_S = 2.0
"""A decode that fetches a KV cache only just in time may find blocks that are someone else's by then."""


class _VllmEngine:
    """What the stages share: a server, the calls to it and its watch."""

    def __init__(self, server: EngineServer, blobs: BlobStore, limits: EngineLimits) -> None:
        self._server = server
        self._blobs = blobs
        self._ttl_s = limits.blob_ttl_s
        self._calls = Calls(server)
        self._watch = Watch(server, self._calls)

    @property
    def failed(self) -> BaseException | None:
        """See `Engine`."""
        return self._watch.gone

    def cancel(self, key: str) -> None:
        """See `Engine`."""
        self._calls.cancel(key)

    def pause(self, key: str, paused: bool) -> None:
        """See `Engine`."""
        self._calls.pause(key, paused)

    def load(self) -> EngineLoad:
        """Return the load at the server's last answer; a server that is silent counts as one long step."""
        seen, total = self._watch.load, self._watch.load.kv_tokens * self._server.token_bytes
        return EngineLoad(
            batch_size=seen.running,
            free_kv_bytes=round(total * (1.0 - seen.kv_usage)),
            total_kv_bytes=total,
            cache_queries=seen.cache_queries,
            cache_hits=seen.cache_hits,
            step_age_s=self._watch.silence_s,
        )

    def close(self) -> None:
        """See `Engine`."""
        self._watch.close()
        self._calls.close()

    def _merged(self, embeddings: Iterable[EmbeddingRef]) -> Json:
        """Return what encode servers said of embeddings, by the hash of what was encoded."""
        params: Json = {}
        for ref in embeddings:
            params |= restored(ref.blob, self._blobs.get)
        return params

    def _answer(self, job: Job, body: Json, request_id: str) -> Json:
        # Written and read on the job's own thread: megabytes of media would hold up the streams of others.
        data = msgspec.json.encode(body)
        return _object(self._calls.run(job, lambda: self._calls.answer(CHAT, data, request_id)))


class VllmEncode(_VllmEngine):
    """`EncodeEngine` by an `ec_producer`."""

    def encode(self, job: EncodeJob) -> EmbeddingRef:
        """Have the item encoded; the reference holds the server's `ec_transfer_params`."""
        body = encode_body(self._server.model, job.item, self._blobs.get(job.item.blob))
        request_id = f"{job.request_id}:{job.hop.partition('.')[2]}:{secrets.token_hex(3)}"
        answer = self._answer(job, body, request_id)
        params = answer.get("ec_transfer_params")
        if not params:
            raise EngineRefused("the server gave no ec_transfer_params: was it started as an ec_producer?")
        return EmbeddingRef(
            blob=stored(params, self._ttl_s),
            content_hash=job.item.content_hash,
            tokens=job.item.tokens,
            dim=0,
        )

    def load(self) -> EngineLoad:
        """Return the load without a KV cache: the server may have one that encoding does not use."""
        return replace(super().load(), free_kv_bytes=0, total_kv_bytes=0)


class VllmPrefill(_VllmEngine):
    """`PrefillEngine` by an `ec_consumer` that keeps its KV caches for decode servers."""

    def prefill(self, job: PrefillJob) -> KVRef:
        """Have the chat prefilled; the reference holds the server's `kv_transfer_params`."""
        assert job.chat
        body = prefill_body(chat_body(job.chat, self._blobs), self._merged(job.embeddings))
        answer = self._answer(job, body, job.request_id)
        usage = answer.get("usage") or {}
        return KVRef(
            blob=stored(answer.get("kv_transfer_params"), self._ttl_s),
            tokens=int(usage.get("prompt_tokens", 0)),
            first_token=_first_token(answer),
            cached_tokens=int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0),
            until_unix_s=time.time() + self._server.kv_lease_s,
        )


class VllmDecode(_VllmEngine):
    """`DecodeEngine` by a server that fetches KV caches from prefill servers."""

    def decode(self, job: DecodeJob, emit: Emit) -> FinishReason:
        """Have the answer written, and emit it as the server writes it.

        Raises:
            BlobUnavailable: The prefill server has not kept the KV cache for long enough.
            AnswerDiverged: It starts over and says something else than the client was sent.
            EngineRefused: It gave up; prefill has to run again, as the KV cache may be gone.
        """
        assert job.chat
        client = chat_body(job.chat, self._blobs)
        ec_params = self._merged(job.embeddings)
        body = msgspec.json.encode(decode_body(client, self._kv_params(job.kv), ec_params))
        chunks, keep_ids = Chunks(job.generated), bool(client.get("return_token_ids"))
        if client.get("stream"):
            events = EventReader(keep_ids=keep_ids)
            self._calls.run(job, lambda: self._stream(job, body, events, chunks, emit))
        else:
            whole = self._calls.run(job, lambda: self._calls.answer(CHAT, body, job.request_id))
            chunks.add(piece(whole, whole, keep_ids=keep_ids))
        last = chunks.end()
        if last.finish is None:
            raise EngineRefused("the answer ended without a finish reason")
        emit(last)
        return last.finish

    def _kv_params(self, kv: KVRef | None) -> Json | None:
        if kv is None:
            return None
        if kv.until_unix_s and time.time() > kv.until_unix_s - _LEASE_MARGIN_S:
            raise BlobUnavailable(kv.blob.uri[:40], "the lease of the KV cache is over")
        params: Json | None = restored(kv.blob, self._blobs.get)
        return params

    async def _stream(
        self, job: DecodeJob, body: bytes, events: EventReader, chunks: Chunks, emit: Emit
    ) -> None:
        async with self._calls.open(CHAT, body, job.request_id) as response:
            async for data in response.content.iter_any():
                for event in events.feed(data):
                    chunks.add(await self._unsaid(job, event, chunks.straddles(event)))
                if chunk := chunks.take():
                    emit(chunk)
                if events.done:
                    return
                await self._calls.go_on(job)
        if not chunks.finished:
            raise EngineRefused("the connection was closed in the midst of an answer")

    async def _unsaid(self, job: DecodeJob, event: Piece, known: int) -> Piece:
        """Return an event without the text of its first `known` tokens, which the client has."""
        if not known:
            return event
        before = await self._text(job, job.generated[:-known])
        said = await self._text(job, job.generated)
        return event.without(said[len(before) :])

    async def _text(self, job: DecodeJob, tokens: tuple[int, ...]) -> str:
        body = msgspec.json.encode({"model": self._server.model, "tokens": tokens})
        answer = _object(await self._calls.answer("/detokenize", body, job.request_id))
        return str(answer["prompt"]).rstrip("\ufffd")


def _first_token(answer: Json) -> int:
    choices: list[Any] = answer.get("choices") or [{}]
    return int((choices[0].get("token_ids") or [-1])[0])


def _object(answer: bytes) -> Json:
    try:
        return msgspec.json.decode(answer, type=Json)
    except msgspec.MsgspecError as error:
        raise EngineRefused(f"the server's answer is no JSON object: {error}") from None
