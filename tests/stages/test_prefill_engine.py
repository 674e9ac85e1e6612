"""Prefill: fair chunks, a budget that holds, a prefix cache that changes no bit."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.engines import BlobUnavailable, InvalidWork, WorkCancelled
from stages.loop import EngineCrashed
from stages.memory_blobs import MemoryBlobs
from stages.prefill_engine import PrefillCore, PrefillTask, ReferencePrefill
from stages.prefix import BLOCK_TOKENS, block_hashes
from stages.transformer import Segment
from stages.types import BlobHandle, EmbeddingRef, MediaSpan, PrefillJob, Prompt, Sampling
from tests.stages.engine_kit import VOCABULARY, Call, eventually, job_fields, limits, small_model

MODEL = small_model()
GREEDY = Sampling(max_tokens=4)


@pytest.fixture
def blobs():
    return MemoryBlobs()


@pytest.fixture
def engine(blobs):
    engine = ReferencePrefill(MODEL, blobs, limits(MODEL, tokens=256, chunk_tokens=16))
    yield engine
    engine.close()


def prefill_job(ids, embeddings=(), spans=(), **fields):
    prompt = Prompt(token_ids=tuple(ids), media=tuple(spans))
    known = {"embeddings": tuple(embeddings), "sampling": GREEDY, **fields}
    return PrefillJob(**job_fields(known.pop("key", "")), prompt=prompt, **known)


def kv_of(blobs, ref):
    c = MODEL.config
    return np.frombuffer(blobs.get(ref.blob), np.float32).reshape(
        c.layers, 2, c.kv_heads, ref.tokens, c.head_dim
    )


def expected(ids):
    slab = MODEL.new_slab(len(ids))
    out = MODEL.forward([Segment(slab=slab, start=0, rows=MODEL.embed(ids))])
    return slab[:, :, :, : len(ids)], int(MODEL.logits(out[-1:])[0].argmax())


def random_ids(count, seed=0):
    return tuple(int(t) for t in np.random.default_rng(seed).integers(0, VOCABULARY, count))


def test_a_prompt_becomes_its_kv_and_next_token(engine, blobs):
    ids = random_ids(40)
    ref = engine.prefill(prefill_job(ids))
    kv, token = expected(ids)
    assert np.array_equal(kv_of(blobs, ref), kv)
    assert (ref.tokens, ref.first_token, ref.cached_tokens) == (40, token, 0)


def test_a_repeated_prefix_is_found_and_changes_no_bit(engine, blobs):
    ids = random_ids(40)
    engine.prefill(prefill_job(ids))
    longer = ids[:36] + random_ids(20, seed=1)
    ref = engine.prefill(prefill_job(longer))
    assert ref.cached_tokens == 36 // BLOCK_TOKENS * BLOCK_TOKENS
    assert np.array_equal(kv_of(blobs, ref), expected(longer)[0])
    load = engine.load()
    assert (load.cache_queries, load.cache_hits) == (40 + 56, ref.cached_tokens)


def test_the_last_position_is_computed_even_if_all_is_cached(engine):
    ids = random_ids(2 * BLOCK_TOKENS)
    first = engine.prefill(prefill_job(ids))
    again = engine.prefill(prefill_job(ids))
    assert again.cached_tokens == BLOCK_TOKENS
    assert again.first_token == first.first_token


def test_generated_tokens_are_prefilled_behind_the_prompt(engine, blobs):
    ids = random_ids(20)
    ref = engine.prefill(prefill_job(ids[:12], generated=ids[12:]))
    assert np.array_equal(kv_of(blobs, ref), expected(ids)[0])


def test_a_sampled_first_token_has_the_index_behind_the_generated_ones(engine):
    hot = Sampling(max_tokens=9, temperature=2.0, seed=11)
    tokens = {
        k: engine.prefill(prefill_job(random_ids(8 + k), sampling=hot, generated=random_ids(k, seed=2)))
        for k in range(4)
    }
    again = engine.prefill(prefill_job(random_ids(8), sampling=hot))
    assert again.first_token == tokens[0].first_token


class TestMedia:
    span = MediaSpan(offset=2, length=3, content_hash="cat")

    def ref(self, blobs, rows=3, dim=80, name="cat", value=0.5):
        soft = np.full((rows, dim), value, np.float32)
        blob = blobs.put(soft, owner="x", ttl_s=60)
        return EmbeddingRef(blob=blob, content_hash=name, tokens=rows, dim=dim)

    def test_soft_tokens_take_the_place_of_placeholders(self, engine, blobs):
        ids = random_ids(10)
        ref = engine.prefill(prefill_job(ids, [self.ref(blobs)], [self.span]))
        rows = MODEL.embed(ids)
        rows[2:5] = 0.5
        slab = MODEL.new_slab(10)
        MODEL.forward([Segment(slab=slab, start=0, rows=rows)])
        assert np.array_equal(kv_of(blobs, ref), slab[:, :, :, :10])

    def test_other_media_at_the_same_tokens_are_no_prefix_hit(self, engine, blobs):
        ids = random_ids(20)
        engine.prefill(prefill_job(ids, [self.ref(blobs)], [self.span]))
        other = replace(self.span, content_hash="dog")
        ref = engine.prefill(prefill_job(ids, [self.ref(blobs, name="dog", value=2)], [other]))
        assert ref.cached_tokens == 0

    @pytest.mark.parametrize("wrong", [{"rows": 4}, {"dim": 16}, {"name": "dog"}], ids=str)
    def test_embeddings_must_fit_their_spans(self, engine, blobs, wrong):
        with pytest.raises(InvalidWork):
            engine.prefill(prefill_job(random_ids(10), [self.ref(blobs, **wrong)], [self.span]))

    def test_bytes_must_be_as_many_as_announced(self, engine, blobs):
        short = replace(self.ref(blobs), blob=blobs.put(b"\0" * 8, owner="x", ttl_s=60))
        with pytest.raises(InvalidWork):
            engine.prefill(prefill_job(random_ids(10), [short], [self.span]))

    def test_a_missing_blob_names_itself(self, engine, blobs):
        gone = BlobHandle(uri="shm://memory/none", sha256="", size_bytes=0, ttl_s=1)
        with pytest.raises(BlobUnavailable, match="none"):
            engine.prefill(prefill_job(random_ids(10), [replace(self.ref(blobs), blob=gone)], [self.span]))


@pytest.mark.parametrize(
    "ids", [(), random_ids(97), (VOCABULARY,), (-1,)], ids=["empty", "beyond-context", "no-token", "negative"]
)
def test_impossible_prompts_are_invalid_and_harm_nobody(engine, ids):
    with pytest.raises(InvalidWork):
        engine.prefill(prefill_job(ids))
    assert engine.prefill(prefill_job((5, 6))).tokens == 2


def test_a_prompt_larger_than_the_kv_memory_is_invalid(blobs):
    engine = ReferencePrefill(MODEL, blobs, limits(MODEL, tokens=32))
    with pytest.raises(InvalidWork, match="KV memory"):
        engine.prefill(prefill_job(random_ids(40)))
    engine.close()


def test_concurrent_prompts_equal_each_alone(engine, blobs):
    prompts = [random_ids(5 + 7 * n % 80, seed=n) for n in range(12)]
    calls = [Call(engine.prefill, prefill_job(ids)) for ids in prompts]
    for ids, call in zip(prompts, calls, strict=True):
        assert np.array_equal(kv_of(blobs, call.result()), expected(ids)[0])
    assert engine.load().running_tokens == engine.load().queued_tokens == 0


def task_for(ids, key="k"):
    return PrefillTask(
        key=key,
        deadline_unix_s=0,
        tokens=len(ids),
        rows=MODEL.embed(ids),
        blocks=block_hashes(Prompt(token_ids=tuple(ids))),
        sampling=GREEDY,
        index=0,
    )


def test_a_short_prompt_does_not_wait_for_a_long_one():
    core = PrefillCore(MODEL, limits(MODEL, chunk_tokens=16))
    long, short = task_for(random_ids(96), "long"), task_for(random_ids(6, 1), "short")
    core.admit(long)
    core.step()
    core.admit(short)
    core.step()
    assert short.future.done()
    assert not long.future.done()


def test_a_long_prompt_is_not_starved_by_short_ones():
    core = PrefillCore(MODEL, limits(MODEL, chunk_tokens=16))
    long = task_for(random_ids(96), "long")
    core.admit(long)
    for step in range(100):
        core.admit(task_for(random_ids(16, step), f"s{step}"))
        core.step()
        if long.future.done():
            break
    assert step < 30


@given(
    st.lists(st.integers(1, 96), min_size=1, max_size=10),
    st.integers(6, 16),
    st.sets(st.integers(0, 9)),
)
@settings(max_examples=25, deadline=None)
def test_the_budget_is_never_exceeded_and_all_is_freed(lengths, budget_tiles, dropped):
    core = PrefillCore(MODEL, limits(MODEL, tokens=budget_tiles * 16, chunk_tokens=32))
    tasks = [task_for(random_ids(n, seed=n), str(i)) for i, n in enumerate(lengths)]
    for task in tasks:
        core.admit(task)
    core.step()
    for task in [t for i, t in enumerate(tasks) if i in dropped and not t.future.done()]:
        core.drop(task)
        tasks.remove(task)
    for _ in range(200):
        assert 0 <= core.budget.used_blocks <= core.budget.total_blocks
        if not core.step():
            break
    assert all(task.future.done() for task in tasks)
    assert core.load().free_kv_bytes == core.load().total_kv_bytes


def test_cancel_frees_the_kv(blobs, monkeypatch):
    engine = ReferencePrefill(MODEL, blobs, limits(MODEL, chunk_tokens=1))
    call = Call(engine.prefill, prefill_job(random_ids(90), key="a"))
    engine.cancel("a|h|1")
    with pytest.raises(WorkCancelled):
        call.result()
    eventually(lambda: engine.load().free_kv_bytes == engine.load().total_kv_bytes)
    engine.close()


def test_a_failing_step_is_a_crash(blobs):
    class Broken(type(MODEL)):
        def forward(self, segments):
            raise FloatingPointError("kernel")

    engine = ReferencePrefill(Broken(MODEL.config, MODEL.weights), blobs, limits(MODEL))
    with pytest.raises(EngineCrashed, match="kernel"):
        engine.prefill(prefill_job((4, 5)))
    assert isinstance(engine.failed, FloatingPointError)
