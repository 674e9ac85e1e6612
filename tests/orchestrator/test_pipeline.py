"""What is lost is made again by the stage that made it, and the client sees every token once."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.kv import KvSizes
from orchestrator.core.tagger import tag
from orchestrator.core.types import MediaShape, Reason, Replica, RouteQuery, Split
from orchestrator.dispatch import Grant, NobodyInDomain
from orchestrator.hops import Attempt, Flow, Request
from orchestrator.inbox import Inbox
from orchestrator.output_length import OutputLength
from orchestrator.pipeline import (
    CRASHES_ALONE,
    MAX_ATTEMPTS,
    Exhausted,
    InvalidRequest,
    Pipeline,
    PoisonRequest,
    Work,
)
from orchestrator.ports import DispatchOrder
from orchestrator.prefix_index import PrefixIndex
from stages.reply import Encoded, Failed, Lost, Prefilled, Reply, Tokens
from stages.types import (
    BlobHandle,
    DecodeJob,
    EmbeddingRef,
    EncodeJob,
    FinishReason,
    Job,
    KVRef,
    MediaItem,
    MediaSpan,
    Modality,
    PrefillJob,
    Prompt,
    Sampling,
    Stage,
    TokenChunk,
)

TEXT = (11, 12, 13, 14, 15, 16)
"""What the model always says."""


def blob(name: str) -> BlobHandle:
    return BlobHandle(uri=f"shm://here/{name}", sha256="", size_bytes=1, ttl_s=60.0)


def chunk(*tokens: int, at: int, finish: FinishReason | None = None) -> Tokens:
    return Tokens(TokenChunk(index=at, tokens=tokens, finish=finish))


def honest(job: Job) -> list[Reply]:
    """Return what a healthy replica answers."""
    match job:
        case EncodeJob():
            name = f"embedding-{job.hop}-{job.attempt}"
            return [
                Encoded(EmbeddingRef(blob=blob(name), content_hash=job.item.content_hash, tokens=1, dim=4))
            ]
        case PrefillJob():
            return [Prefilled(KVRef(blob=blob("kv"), tokens=3, first_token=TEXT[len(job.generated)]))]
        case DecodeJob():
            done = len(job.generated)
            return [chunk(*TEXT[done:], at=done, finish=FinishReason.STOP)]
    raise AssertionError(job)


async def nowhere(order: str) -> None: ...


@dataclass
class FakeHops:
    """Replicas that answer as scripted; keeps the jobs that were dispatched.

    Attributes:
        late_s: Seconds before the answer to an attempt named `hop#attempt`.
        running: Attempts that were not left yet.
    """

    script: Callable[[Job], list[Reply]]
    late_s: Mapping[str, float] = field(default_factory=dict)
    running: int = 0
    jobs: list[Job] = field(default_factory=list)
    queries: list[RouteQuery] = field(default_factory=list)
    outputs: OutputLength = field(default_factory=OutputLength)
    tokens: Counter[Stage] = field(default_factory=Counter)

    @asynccontextmanager
    async def attempt(self, request: Request, query: RouteQuery, job: Job) -> AsyncIterator[Attempt]:
        self.jobs.append(job)
        self.queries.append(query)
        replica = Replica(
            replica_id=f"{query.stage}.{len(self.jobs)}", stage=query.stage, model="tiny", slots=1
        )
        order = DispatchOrder(
            replica_id=replica.replica_id,
            job=job,
            gateway="g",
            tokens=query.tokens,
            kv_bytes=query.kv_bytes,
            alone=query.alone,
            ttl_s=1.0,
        )
        inbox = Inbox(lambda depth: None)
        for reply in self.script(job):
            if wait_s := self.late_s.get(f"{job.hop}#{job.attempt}"):
                asyncio.get_running_loop().call_later(wait_s, inbox.put, reply)
            else:
                inbox.put(reply)
        flow = Flow(nowhere, lambda work: work.close())
        self.running += 1
        try:
            yield Attempt(Grant(order, replica, Reason.ONLY_CANDIDATE), inbox, flow)
        finally:
            self.running -= 1

    def delivered(self, stage: Stage, tokens: int, cached_tokens: int = 0) -> None:
        self.tokens[stage] += tokens

    def said(self, attempt: Attempt, tokens: int) -> None:
        self.tokens[Stage.DECODE] += tokens

    def hops(self) -> list[str]:
        return [f"{job.hop}#{job.attempt}" for job in self.jobs]


DECODER_ONLY = KvSizes(token_bytes=10)
ALL_APART = Split()


def pipeline(
    hops: FakeHops,
    images: int = 0,
    kappa: int = 1,
    kv: KvSizes = DECODER_ONLY,
    split: Split = ALL_APART,
    hedge_s: Mapping[Stage, float | None] | None = None,
    called: Sequence[Stage] = (),
) -> Pipeline:
    items = [
        MediaItem(
            modality=Modality.IMAGE,
            blob=blob(f"media-{n}"),
            content_hash=f"hash-{n}",
            width_px=1,
            height_px=1,
            frames=1,
            tokens=1,
        )
        for n in range(images)
    ]
    shape = MediaShape(modality=Modality.IMAGE, tokens=1)
    spans = tuple(MediaSpan(offset=n, length=1, content_hash=f"hash-{n}") for n in range(images))
    now_s = time.monotonic()
    request = Request(
        request_id="r",
        reply_to="g",
        model="tiny",
        arrival_s=now_s,
        due_s=now_s + 1,
        deadline_s=now_s + 60,
        deadline_unix_s=time.time() + 60,
    )
    tagged = tag(2, [shape] * images, kappa=kappa, max_tokens=16, split=split)
    work = Work(
        tag=tagged,
        hops=tuple(stage for stage in tagged.stages if stage not in called),
        prompt=Prompt(token_ids=(0,) * images + (5, 6), media=spans),
        items=items,
        sampling=Sampling(max_tokens=16),
        restore=lambda index: blob(f"restored-{index}"),
        kv=kv,
        hedge_s=hedge_s or {},
    )
    return Pipeline(hops, PrefixIndex(8), request, work)  # type: ignore[arg-type]


def serve(
    script: Callable[[Job], list[Reply]], images: int = 0, **model: Any
) -> tuple[list[TokenChunk], FakeHops]:
    hops = FakeHops(script)

    async def collect() -> list[TokenChunk]:
        return [chunk async for chunk in pipeline(hops, images, **model).run()]

    return asyncio.run(collect()), hops


def failing(replies: dict[str, Sequence[Reply]]) -> Callable[[Job], list[Reply]]:
    """Return a script that answers the attempts named `hop#attempt` as given, and all others honestly."""
    return lambda job: list(replies.get(f"{job.hop}#{job.attempt}") or honest(job))


def text(chunks: list[TokenChunk]) -> tuple[int, ...]:
    assert [c.index for c in chunks] == [sum(len(b.tokens) for b in chunks[:n]) for n in range(len(chunks))]
    assert [c.finish for c in chunks if c.finish] == [FinishReason.STOP]
    return tuple(token for c in chunks for token in c.tokens)


def test_text_alone_skips_encode() -> None:
    chunks, hops = serve(honest)
    assert text(chunks) == TEXT
    assert hops.hops() == ["prefill#1", "decode#1"]


def test_images_are_encoded_before_prefill_and_handed_on_in_order() -> None:
    _, hops = serve(honest, images=3)
    assert sorted(hops.hops()[:3]) == ["encode.0#1", "encode.1#1", "encode.2#1"]
    prefill = hops.jobs[3]
    assert isinstance(prefill, PrefillJob)
    assert [ref.content_hash for ref in prefill.embeddings] == ["hash-0", "hash-1", "hash-2"]


@given(st.integers(0, len(TEXT) - 1), st.sampled_from(["crash", "killed", "lost"]))
def test_a_decode_lost_after_k_tokens_goes_on_at_k(k: int, cause: str) -> None:
    """Prefill takes the tokens that the client has; nothing is sent twice."""
    begun = [chunk(token, at=index) for index, token in enumerate(TEXT[:k])]
    chunks, hops = serve(failing({"decode#1": [*begun, Lost(cause)]}))  # type: ignore[arg-type]
    assert text(chunks) == TEXT
    assert hops.hops() == ["prefill#1", "decode#1", "prefill#2", "decode#2"]
    assert [job.generated for job in hops.jobs[2:]] == [TEXT[:k]] * 2  # type: ignore[union-attr]


def test_work_is_counted_where_it_is_done() -> None:
    """Each image once, what the prefix cache did not supply of the prompt, each output token once."""
    cached = Prefilled(KVRef(blob=blob("kv"), tokens=4, first_token=TEXT[0], cached_tokens=3))
    twice = [chunk(*TEXT, at=0), chunk(*TEXT, at=0, finish=FinishReason.STOP)]
    _, hops = serve(failing({"prefill#1": [cached], "decode#1": twice}), images=2)
    assert hops.tokens == {Stage.ENCODE: 2, Stage.PREFILL: 1, Stage.DECODE: len(TEXT)}


@given(st.lists(st.integers(0, len(TEXT)), min_size=1, max_size=4))
def test_chunks_that_arrive_twice_are_sent_once(cuts: list[int]) -> None:
    """A coalesced write that is repeated after a lost connection overlaps what came before."""
    ends = sorted({*cuts, len(TEXT)} - {0})
    starts = [0, *ends[:-1]]
    pieces: list[Reply] = [chunk(*TEXT[a:b], at=a) for a, b in zip(starts, ends, strict=True)]
    repeated = [*pieces, *pieces[-1:], chunk(*TEXT, at=0, finish=FinishReason.STOP)]
    chunks, _ = serve(failing({"decode#1": repeated}))
    assert text(chunks) == TEXT


def test_only_the_embedding_that_vanished_is_made_again() -> None:
    missing = Failed("blob", "missing", "shm://here/embedding-encode.1-1")
    _, hops = serve(failing({"prefill#1": [missing]}), images=3)
    assert hops.hops()[3:] == ["prefill#1", "encode.1#2", "prefill#2", "decode#1"]


CROSSED = KvSizes(token_bytes=10, crossed_bytes=4, crossed_tokens=1)


@pytest.mark.parametrize(
    ("model", "prefill", "decode"),
    [
        pytest.param({}, [50, 70], [210, 210], id="images-in-the-prompt"),
        pytest.param({"kappa": 0, "kv": CROSSED}, [32, 52], [192, 192], id="in-cross-attention"),
    ],
)
def test_kv_is_reserved_for_the_prompt_its_images_and_the_completion(
    model: dict[str, Any], prefill: list[int], decode: list[int]
) -> None:
    """Two tokens of text and three images of one; prefill again holds the two tokens that were said."""
    begun = [chunk(*TEXT[:2], at=0), Lost("crash")]
    _, hops = serve(failing({"decode#1": begun}), images=3, **model)
    reserved = {stage: [query.kv_bytes for query in hops.queries if query.stage is stage] for stage in Stage}
    assert reserved == {Stage.ENCODE: [0, 0, 0], Stage.PREFILL: prefill, Stage.DECODE: decode}


@pytest.mark.parametrize(
    ("split", "hops"),
    [
        (Split(prefill_from=None), ["encode.0#1", "decode#1"]),
        (Split(encode_from=None), ["prefill#1", "decode#1"]),
        (Split(encode_from=None, prefill_from=None), ["decode#1"]),
    ],
)
def test_a_stage_that_is_not_apart_has_no_hop(split: Split, hops: list[str]) -> None:
    """Decode is told what it lacks: embeddings where it prefills, nothing where it encodes too."""
    chunks, made = serve(honest, images=1, split=split)
    assert text(chunks) == TEXT
    assert made.hops() == hops
    job = made.jobs[-1]
    assert isinstance(job, DecodeJob)
    assert (job.kv is None) == (split.prefill_from is None)
    assert len(job.embeddings) == ("encode.0#1" in hops and job.kv is None)


def test_encoders_that_others_call_get_no_hop_and_their_work_is_counted_once() -> None:
    """Once a first token shows it done, whatever has to be run again."""
    begun = [chunk(*TEXT[:2], at=0), Lost("crash")]
    chunks, made = serve(failing({"decode#1": begun}), images=3, called=[Stage.ENCODE])
    assert text(chunks) == TEXT
    assert made.hops() == ["prefill#1", "decode#1", "prefill#2", "decode#2"]
    assert made.tokens[Stage.ENCODE] == 3


def test_what_others_encoded_is_counted_though_the_client_leaves() -> None:
    made = FakeHops(honest)

    async def leave() -> None:
        async with aclosing(pipeline(made, 3, called=[Stage.ENCODE]).run()) as chunks:
            await anext(chunks)

    asyncio.run(leave())
    assert made.tokens[Stage.ENCODE] == 3


def test_an_embedding_that_vanished_before_decode_prefills_is_made_again() -> None:
    missing = Failed("blob", "missing", "shm://here/embedding-encode.0-1")
    _, hops = serve(failing({"decode#1": [missing]}), images=1, split=Split(prefill_from=None))
    assert hops.hops() == ["encode.0#1", "decode#1", "encode.0#2", "decode#2"]


@pytest.mark.parametrize(
    "reply", [Failed("refused", "KV not fetched"), Failed("blob", "missing", "shm://here/kv")]
)
def test_prefill_is_rather_asked_elsewhere_after_a_decode_that_failed(reply: Failed) -> None:
    """It may be the KV cache that is bad, again and again."""
    chunks, hops = serve(failing({"decode#1": [reply]}))
    assert text(chunks) == TEXT
    first, again = (query for query in hops.queries if query.stage is Stage.PREFILL)
    assert (first.avoided, again.avoided) == (frozenset(), frozenset({"prefill.1"}))


def test_media_that_vanished_are_put_back() -> None:
    _, hops = serve(failing({"encode.0#1": [Failed("blob", "missing", "shm://here/media-0")]}), images=1)
    again = hops.jobs[1]
    assert isinstance(again, EncodeJob)
    assert again.item.blob.uri == "shm://here/restored-0"


def test_a_vanished_kv_cache_is_prefilled_again() -> None:
    chunks, hops = serve(failing({"decode#1": [Failed("blob", "missing", "shm://here/kv")]}))
    assert text(chunks) == TEXT
    assert hops.hops() == ["prefill#1", "decode#1", "prefill#2", "decode#2"]


def test_a_kv_cache_that_no_decode_is_near_to_is_made_again_elsewhere() -> None:
    def script(job: Job) -> list[Reply]:
        if job.hop == "decode" and job.attempt == 1:
            raise NobodyInDomain
        return honest(job)

    chunks, hops = serve(script)
    assert text(chunks) == TEXT
    assert hops.hops() == ["prefill#1", "decode#1", "prefill#2", "decode#2"]


def test_a_lost_hop_avoids_the_replica_that_lost_it() -> None:
    _, hops = serve(failing({"prefill#1": [Lost("lost")]}))
    assert hops.queries[1].excluded == {"prefill.1"}


@pytest.mark.parametrize("stage", ["encode.0", "prefill", "decode"])
def test_a_crash_makes_suspect_and_two_crashes_alone_convict(stage: str) -> None:
    hops = FakeHops(lambda job: [Lost("crash")] if job.hop == stage else honest(job))

    async def run() -> None:
        async for _ in pipeline(hops, images=1).run():
            pass

    with pytest.raises(PoisonRequest):
        asyncio.run(run())
    alone = [query.alone for query, job in zip(hops.queries, hops.jobs, strict=True) if job.hop == stage]
    assert alone == [False] + [True] * CRASHES_ALONE


@pytest.mark.parametrize("cause", ["killed", "lost"])
def test_outside_kills_count_against_nobody(cause: str) -> None:
    """They are retried up to the bound of all attempts; only silence, if repeated, asks for solitude."""
    hops = FakeHops(lambda job: [Lost(cause)] if job.hop == "prefill" else honest(job))  # type: ignore[arg-type]

    async def run() -> None:
        async for _ in pipeline(hops).run():
            pass

    with pytest.raises(Exhausted):
        asyncio.run(run())
    assert len(hops.jobs) == MAX_ATTEMPTS
    alone = [query.alone for query in hops.queries]
    assert alone == ([False] * 3 + [True] * 9 if cause == "lost" else [False] * MAX_ATTEMPTS)


@pytest.mark.parametrize("hop", ["encode.0", "prefill", "decode"])
def test_what_one_engine_refuses_another_is_asked(hop: str) -> None:
    chunks, hops = serve(failing({f"{hop}#1": [Failed("refused", "500: busy")]}), images=1)
    assert text(chunks) == TEXT
    first, again = [q for q, job in zip(hops.queries, hops.jobs, strict=True) if job.hop == hop]
    assert not first.avoided and len(again.avoided) == 1


def test_input_that_no_engine_can_serve_is_not_retried() -> None:
    with pytest.raises(InvalidRequest, match="truncated"):
        serve(failing({"encode.0#1": [Failed("invalid", "truncated image")]}), images=1)
