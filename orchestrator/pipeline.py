"""The data path of one request: encode → prefill → decode, with retries. One coroutine per request.

What is lost is made again by the stage that made it: embeddings by encode, a KV cache by prefill, from
the prompt and the tokens that the client has already been sent.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from orchestrator.core.kv import KvSizes, kv_bytes
from orchestrator.core.types import Replica, RouteQuery, StageTag
from orchestrator.dispatch import NobodyInDomain
from orchestrator.hops import HEDGE, Attempt, Hops, Request
from orchestrator.logs import request_fields
from orchestrator.prefix_index import PrefixIndex
from stages.prefix import block_hashes
from stages.reply import Encoded, Failed, Lost, Prefilled, Reply, Tokens
from stages.types import (
    BlobHandle,
    Chat,
    DecodeJob,
    EmbeddingRef,
    EncodeJob,
    Job,
    KVRef,
    MediaItem,
    PrefillJob,
    Prompt,
    Sampling,
    Stage,
    TokenChunk,
)

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 12
"""Dispatches of one hop, whatever went wrong with them."""
LOSSES_TO_SUSPECT = 3
"""Attempts of a hop whose replica fell silent, after which the hop is retried alone; that proves nothing."""
CRASHES_ALONE = 2
"""Crashes of an engine that served nothing else, after which a request is called poisonous."""

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.05, 2.0
"""Before a hop that an engine refused is tried again; the wait doubles with each attempt."""


Answered = tuple[Attempt, Reply]
"""What a replica was asked, and what it said."""


class RequestFailed(Exception):
    """A request that ends without an answer."""


class InvalidRequest(RequestFailed):
    """A stage found the input unservable."""


class PoisonRequest(RequestFailed):
    """The request crashes engines."""


class Exhausted(RequestFailed):
    """Too many attempts were lost; the system is failing, not the request."""


class StoreFull(RequestFailed):
    """A stage found no room in the blob store."""


class Diverged(RequestFailed):
    """A lost answer was begun and cannot be continued."""


class DeadlineExpired(RequestFailed):
    """A stage dropped the work because its deadline had passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a request asks for, ready to be dispatched.

    Attributes:
        hops: Stages whose work is given to their replicas by us: all of the tag's, but for encoders that the
            servers which prefill call themselves.
        prompt: What routing knows of it; also what the engine gets, unless that reads the chat.
        chat: The chat's body for an engine that reads it.
        restore: Puts a media item's bytes back into the blob store, by its index.
        kv: What the model keeps of what it reads.
        decode_level: Topology levels that decode must share with prefill.
        hedge_s: By stage, after how long with one replica a hop is given to a second as well.
    """

    tag: StageTag
    hops: tuple[Stage, ...]
    prompt: Prompt
    items: Sequence[MediaItem]
    sampling: Sampling
    restore: Callable[[int], BlobHandle]
    kv: KvSizes
    decode_level: int = 0
    chat: BlobHandle | None = None
    hedge_s: Mapping[Stage, float | None] = field(default_factory=dict)


class Pipeline:
    """Serves one request."""

    def __init__(self, hops: Hops, prefixes: PrefixIndex, request: Request, work: Work) -> None:
        self._hops = hops
        self._prefixes = prefixes
        self._request = request
        self._work = work
        self._items = list(work.items)
        self._embeddings: list[EmbeddingRef | None] = [None] * len(self._items)
        self._suspect: set[str] = set()
        self._crashes: dict[str, int] = {}
        self._generated: list[int] = []
        encoded_here = Stage.ENCODE in work.hops or Stage.ENCODE not in work.tag.stages
        self._encoded_elsewhere = 0 if encoded_here else work.tag.encode_tokens
        self._lost_on: dict[str, str] = {}
        self._refused_by: dict[str, str] = {}
        self.cached_tokens = 0

    @property
    def request_id(self) -> str:
        """Our id of the request."""
        return self._request.request_id

    async def run(self) -> AsyncGenerator[TokenChunk]:
        """Yield the completion; the last chunk has the finish reason. Every index comes once and in order.

        Raises:
            RequestFailed: Its subclass says why.
            DeadlinePassed: A hop's turn came too late.
        """
        hops = self._work.hops
        while True:
            if Stage.ENCODE in hops:
                await self._encode()
            prefilled = None
            if Stage.PREFILL in hops:
                prefilled = await self._prefill()
                if prefilled is None:
                    continue
            async with aclosing(self._decode(prefilled)) as chunks:
                async for chunk in chunks:
                    self._count_encoded_elsewhere()
                    yield chunk
                    if chunk.finish:
                        return

    def _count_encoded_elsewhere(self) -> None:
        """Count, once, what no hop of ours encoded, and a first token shows to be done."""
        if self._encoded_elsewhere:
            self._hops.delivered(Stage.ENCODE, self._encoded_elsewhere)
            self._encoded_elsewhere = 0

    async def _encode(self) -> None:
        """Encode the items that have no embedding, in parallel."""
        missing = [index for index, ref in enumerate(self._embeddings) if ref is None]
        if len(missing) == 1:  # the usual case does without a task of its own
            await self._encode_item(missing[0])
            return
        try:
            async with asyncio.TaskGroup() as group:
                for index in missing:
                    group.create_task(self._encode_item(index))
        except* Exception as errors:
            raise _first(errors) from None

    async def _encode_item(self, index: int) -> None:
        hop = f"encode.{index}"
        while True:
            item = self._items[index]
            query = self._query(hop, Stage.ENCODE, item.tokens, affinity_key=item.content_hash)
            job = EncodeJob(item=item, **self._request.next_attempt(hop))
            attempt, reply = await self._answered(query, job)
            if isinstance(reply, Encoded):
                self._embeddings[index] = reply.ref
                cached = reply.ref.tokens if reply.ref.cached else 0
                self._hops.delivered(Stage.ENCODE, reply.ref.tokens - cached, cached)
                self._note(reply.ref.blob)
                return
            await self._retry_or_raise(hop, attempt, reply)
            if isinstance(reply, Failed) and reply.kind == "blob":
                self._items[index] = replace(item, blob=self._work.restore(index))

    async def _prefill(self) -> tuple[KVRef, Replica] | None:
        """Return the KV cache and who made it, or None if an embedding has to be made again first."""
        hop, prompt = "prefill", self._work.prompt
        hashes = block_hashes(prompt)
        while True:
            tokens = self._work.tag.prefill_tokens + len(self._generated)
            query = self._query(
                hop,
                Stage.PREFILL,
                tokens,
                kv_bytes=kv_bytes(self._work.tag, self._work.kv, len(self._generated)),
                prefix_tokens=self._prefixes.match(hashes),
            )
            chat = self._chat()
            job = PrefillJob(
                prompt=Prompt(token_ids=()) if chat else prompt,
                chat=chat,
                embeddings=self._encoded(),
                sampling=self._work.sampling,
                generated=tuple(self._generated),
                **self._request.next_attempt(hop),
            )
            attempt, reply = await self._answered(query, job)
            if isinstance(reply, Prefilled):
                self._note(reply.ref.blob)
                cached = min(tokens, reply.ref.cached_tokens)
                self._hops.delivered(Stage.PREFILL, tokens - cached, cached)
                self._prefixes.record(attempt.grant.order.replica_id, hashes)
                self.cached_tokens = max(self.cached_tokens, reply.ref.cached_tokens)
                return reply.ref, attempt.grant.replica
            await self._retry_or_raise(hop, attempt, reply)
            if isinstance(reply, Failed) and reply.kind == "blob":
                self._forget_embedding(reply.uri)
                return None

    async def _decode(self, prefilled: tuple[KVRef, Replica] | None) -> AsyncGenerator[TokenChunk]:
        """Yield chunks until the completion is finished or the attempt is lost.

        Args:
            prefilled: A KV cache and who made it; None if the engine is to prefill too.
        """
        hop, sampling = "decode", self._work.sampling
        kv, prefill = prefilled or (None, None)
        query = self._query(
            hop,
            Stage.DECODE,
            self._hops.outputs.expect(sampling.max_tokens - len(self._generated)),
            kv_bytes=kv_bytes(self._work.tag, self._work.kv, sampling.max_tokens),
            prompt_tokens=0 if prefilled else self._work.tag.prefill_tokens + len(self._generated),
            domain=prefill.domain if prefill else (),
            required_level=self._work.decode_level if prefill else 0,
        )
        job = DecodeJob(
            kv=kv,
            embeddings=() if kv else self._encoded(),
            sampling=sampling,
            generated=tuple(self._generated),
            chat=self._chat(),
            **self._request.next_attempt(hop),
        )
        try:
            async with self._hops.attempt(self._request, query, job) as attempt:
                while True:
                    reply = await attempt.inbox.get()
                    if not isinstance(reply, Tokens):
                        await self._retry_or_raise(hop, attempt, reply)
                        self._blame_upstream(reply, prefill)
                        return
                    chunk = self._unseen(reply.chunk)
                    self._generated += chunk.tokens
                    self._hops.said(attempt, len(chunk.tokens))
                    if chunk.tokens or chunk.finish:
                        yield chunk
                    if chunk.finish:
                        self._hops.outputs.observe(len(self._generated))
                        return
        except NobodyInDomain:
            log.warning("no decode is left where prefill was; prefilling elsewhere", extra=self._fields())
            self._check_attempts(hop)

    async def _answered(self, query: RouteQuery, job: Job) -> Answered:
        """Have a hop done that may be done twice; a second replica gets it too if the first takes long."""
        async with self._hops.attempt(self._request, query, job) as attempt:
            try:
                async with asyncio.timeout(self._work.hedge_s.get(query.stage)):
                    return attempt, await attempt.inbox.get()
            except TimeoutError:
                return await self._raced(attempt, query, job)

    async def _raced(self, first: Attempt, query: RouteQuery, job: Job) -> Answered:
        """Return what a second replica answers, or the first one, if that does the work sooner."""
        busy = first.grant.order.replica_id
        log.info("%s takes long on %s; given to another as well", job.hop, busy, extra=self._fields())
        again = replace(job, **self._request.next_attempt(job.hop + HEDGE))
        elsewhere = query._replace(excluded=query.excluded | {busy})
        runs = [
            asyncio.create_task(_reply(first)),
            asyncio.create_task(self._once(elsewhere, again)),
        ]
        try:
            return await _first_done(runs)
        finally:
            for run in runs:
                run.cancel()
            await asyncio.gather(*runs, return_exceptions=True)

    async def _once(self, query: RouteQuery, job: Job) -> Answered:
        async with self._hops.attempt(self._request, query, job) as attempt:
            return await _reply(attempt)

    def _chat(self) -> Chat | None:
        """Return the chat as it is now: media may have been put back into the store."""
        body = self._work.chat
        return Chat(body=body, items=tuple(self._items)) if body else None

    def _encoded(self) -> tuple[EmbeddingRef, ...]:
        return tuple(ref for ref in self._embeddings if ref is not None)

    def _note(self, blob: BlobHandle) -> None:
        if blob.pull_url:
            self._request.pull_urls.add(blob.pull_url)

    def _unseen(self, chunk: TokenChunk) -> TokenChunk:
        """Drop what was received before: a write repeated after a lost connection arrives twice."""
        known = len(self._generated) - chunk.index
        if known < 0:
            raise RuntimeError(f"tokens {len(self._generated)} to {chunk.index} are missing")
        if not known:
            return chunk
        # What an engine has written is never cut: it arrives twice whole, or not at all.
        return TokenChunk(index=chunk.index + known, tokens=chunk.tokens[known:], finish=chunk.finish)

    def _query(
        self,
        hop: str,
        stage: Stage,
        tokens: int,
        *,
        kv_bytes: int = 0,
        prompt_tokens: int = 0,
        affinity_key: str = "",
        prefix_tokens: Mapping[str, int] | None = None,
        domain: tuple[str, ...] = (),
        required_level: int = 0,
    ) -> RouteQuery:
        lost_on, refused_by = self._lost_on.get(hop), self._refused_by.get(hop)
        return RouteQuery(
            stage=stage,
            model=self._request.model,
            tokens=tokens,
            kv_bytes=kv_bytes,
            prompt_tokens=prompt_tokens,
            affinity_key=affinity_key,
            prefix_tokens=prefix_tokens or {},
            domain=domain,
            required_level=required_level,
            onward_level=self._work.decode_level if stage is Stage.PREFILL else 0,
            excluded=frozenset({lost_on} if lost_on else ()),
            avoided=frozenset({refused_by} if refused_by else ()),
            alone=hop in self._suspect,
        )

    async def _retry_or_raise(self, hop: str, attempt: Attempt, reply: Reply) -> None:
        """Return if the hop should be tried again; note what is known against the request."""
        if isinstance(reply, Lost):
            self._lost_on[hop] = attempt.grant.order.replica_id
            if reply.cause == "crash":
                self._blame(hop, alone=attempt.grant.order.alone)
            elif reply.cause == "lost" and self._request.attempts[hop] >= LOSSES_TO_SUSPECT:
                self._suspect.add(hop)  # it may be what freezes them
        elif isinstance(reply, Failed) and reply.kind == "invalid":
            raise InvalidRequest(reply.message)
        elif isinstance(reply, Failed) and reply.kind == "full":
            raise StoreFull(reply.message)
        elif isinstance(reply, Failed) and reply.kind == "deadline":
            raise DeadlineExpired(reply.message)
        elif isinstance(reply, Failed) and reply.kind == "diverged":
            raise Diverged(reply.message)
        elif isinstance(reply, Failed) and reply.kind == "refused":
            self._refused_by[hop] = attempt.grant.order.replica_id
        log.warning("%s retried: %s", hop, reply, extra=self._fields())
        self._check_attempts(hop)
        if isinstance(reply, Failed) and reply.kind == "refused":
            await asyncio.sleep(min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** (self._request.attempts[hop] - 1)))

    def _check_attempts(self, hop: str) -> None:
        if self._request.attempts[hop] >= MAX_ATTEMPTS:
            raise Exhausted(f"{hop} was attempted {MAX_ATTEMPTS} times")

    def _blame(self, hop: str, *, alone: bool) -> None:
        """A crash makes everything on the replica suspect; only a crash while alone is proof."""
        self._suspect.add(hop)
        if alone:
            self._crashes[hop] = self._crashes.get(hop, 0) + 1
            if self._crashes[hop] >= CRASHES_ALONE:
                raise PoisonRequest(f"the request crashed {hop} {CRASHES_ALONE} times while it ran alone")

    def _blame_upstream(self, reply: Reply, prefill: Replica | None) -> None:
        """Have made again, and rather elsewhere, what a decode may have failed for."""
        if not isinstance(reply, Failed):
            return
        if prefill:  # whose KV cache may be what the decode stumbled over
            self._refused_by["prefill"] = prefill.replica_id
        elif reply.kind == "blob":
            self._forget_embedding(reply.uri)

    def _forget_embedding(self, uri: str) -> None:
        # An engine that cannot tell which one is missing gets all of them again.
        named = [ref is not None and ref.blob.uri == uri for ref in self._embeddings]
        self._embeddings = [
            None if hit or not any(named) else ref for ref, hit in zip(self._embeddings, named, strict=True)
        ]

    def _fields(self) -> dict[str, str]:
        request = self._request
        return request_fields(request.request_id, request.x_request_id, request.traceparent)


async def _reply(attempt: Attempt) -> Answered:
    return attempt, await attempt.inbox.get()


async def _first_done(runs: Sequence[asyncio.Task[Answered]]) -> Answered:
    """Return the first answer that is the work done, else the last one."""
    for run in asyncio.as_completed(runs):
        attempt, reply = await run
        if isinstance(reply, Encoded | Prefilled):
            break
    return attempt, reply


def _first(errors: BaseExceptionGroup[Exception]) -> Exception:
    """Return the first single exception of a group."""
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
