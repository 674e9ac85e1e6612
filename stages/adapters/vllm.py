"""vLLM servers that encode (ECConnector), prefill and decode (KV connector) for one another.

The requests are those of vLLM's own proxies: `disagg_epd_proxy.py` among its examples and
`toy_proxy_server.py` among the tests of its NIXL connector.
"""

import secrets
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec

from stages.adapters.bodies import (
    Json,
    chat_body,
    decode_body,
    encode_body,
    handed_over,
    prefill_body,
    restored,
    stored,
)
from stages.adapters.decode import Question, ServedDecode
from stages.adapters.engine import ServerEngine, json_object
from stages.adapters.events import Reader, piece
from stages.adapters.resume import (
    GENERATE,
    RENDER,
    behind,
    can_resume,
    event_reader,
    is_plain,
    keeping,
)
from stages.adapters.server import EngineServer
from stages.blobs import BlobStore
from stages.engines import BlobUnavailable, EngineRefused
from stages.limits import EngineLimits
from stages.types import DecodeJob, EmbeddingRef, EncodeJob, EngineLoad, KVRef, PrefillJob

_LEASE_MARGIN_S = 2.0
"""A decode that fetches a KV cache only just in time may find blocks that are someone else's by then."""


class _VllmEngine(ServerEngine):
    """What vLLM's stages share."""

    def __init__(self, server: EngineServer, blobs: BlobStore, limits: EngineLimits) -> None:
        """See `ServerEngine`."""
        super().__init__(server, blobs, limits)
        self._can_resume = can_resume(self._calls)

    def _behind(self, job: PrefillJob | DecodeJob, client: Json) -> Json | None:
        """Return what makes the server go on behind the tokens that the client has; None if nothing does."""
        if not (job.generated and self._can_resume and is_plain(client)):
            return None
        rendered = self._answer(job, client, job.request_id, RENDER)
        return behind(rendered, job.generated)

    def _merged(self, embeddings: Iterable[EmbeddingRef]) -> Json:
        """Return what encode servers said of embeddings, by the hash of what was encoded."""
        params: Json = {}
        for ref in embeddings:
            params |= restored(ref.blob, self._blobs.get)
        return params


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
        client, embeddings = chat_body(job.chat, self._blobs), self._merged(job.embeddings)
        if resumed := self._behind(job, client):
            body = handed_over(keeping(resumed), embeddings)
            answer = self._answer(job, body, job.request_id, GENERATE)
        else:
            answer = self._answer(job, prefill_body(client, embeddings), job.request_id)
        usage = answer.get("usage") or {}
        return KVRef(
            blob=stored(answer.get("kv_transfer_params"), self._ttl_s),
            tokens=int(usage.get("prompt_tokens", 0)),
            first_token=_first_token(answer),
            cached_tokens=int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0),
            until_unix_s=time.time() + self._server.kv_lease_s,
            generated=len(job.generated) if resumed else 0,
        )


class VllmDecode(_VllmEngine, ServedDecode):
    """`DecodeEngine` by a server that fetches KV caches from prefill servers, or prefills too."""

    def asked(self, job: DecodeJob, client: Json) -> Json:
        """Return the client's body with what the connectors need.

        Raises:
            BlobUnavailable: The prefill server has not kept the KV cache for long enough.
        """
        kv = job.kv if job.kv and not job.kv.generated else None  # more than the prompt's is no use
        return decode_body(client, self._kv_params(kv), self._merged(job.embeddings))

    def resumed(self, job: DecodeJob, client: Json) -> Question | None:
        """See `ServedDecode`; a KV cache that ends with the prompt is one to start over with.

        Raises:
            BlobUnavailable: See `asked`.
        """
        if job.kv and not job.kv.generated:
            return None
        resumed = self._behind(job, client)
        if resumed is None:
            return None
        text = resumed | {"output_mode": "text"}
        body = decode_body(text, self._kv_params(job.kv), self._merged(job.embeddings))
        read = event_reader(
            job.request_id,
            self._server.model,
            int(time.time()),
            len(job.generated),
            keep_ids=bool(client.get("return_token_ids")),
        )
        return Question(path=GENERATE, body=msgspec.json.encode(body), read=read)

    def reader(self, client: Json) -> Reader:
        """Return what reads the ids of tokens, which the client sees if it has asked for them."""
        return partial(piece, keep_ids=bool(client.get("return_token_ids")))

    def _kv_params(self, kv: KVRef | None) -> Json | None:
        if kv is None:
            return None
        if kv.until_unix_s and time.time() > kv.until_unix_s - _LEASE_MARGIN_S:
            raise BlobUnavailable(kv.blob.uri[:40], "the lease of the KV cache is over")
        params: Json | None = restored(kv.blob, self._blobs.get)
        return params

    async def text(self, job: DecodeJob, tokens: tuple[int, ...]) -> str:
        """Return the text of tokens, by the server's own vocabulary."""
        body = msgspec.json.encode({"model": self._server.model, "tokens": tokens})
        answer = json_object(await self._calls.answer("/detokenize", body, job.request_id))
        return str(answer["prompt"]).rstrip("\ufffd")


def _first_token(answer: Json) -> int:
    choices: list[Any] = answer.get("choices") or [{}]
    return int((choices[0].get("token_ids") or [-1])[0])
