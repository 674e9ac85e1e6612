"""Decode: joins and leaves between steps, ends for the right reason, holds its budget."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.decode_engine import DecodeCore, DecodeTask, ReferenceDecode
from stages.engines import InvalidWork, WorkCancelled
from stages.loop import EngineCrashed
from stages.memory_blobs import MemoryBlobs
from stages.prefill_engine import ReferencePrefill
from stages.sampling import sample
from stages.stop import StopText
from stages.transformer import Segment
from stages.types import DecodeJob, FinishReason, KVRef, PrefillJob, Prompt, Sampling, TokenChunk
from tests.stages.engine_kit import (
    EOS,
    LETTERS,
    VOCABULARY,
    Call,
    LetterFront,
    eventually,
    job_fields,
    limits,
    small_model,
)

MODEL = small_model()
FRONT = LetterFront()


@pytest.fixture(scope="module")
def stack():
    """Blobs and the engines of both stages."""
    blobs = MemoryBlobs()
    prefill = ReferencePrefill(MODEL, blobs, limits(MODEL))
    decode = ReferenceDecode(MODEL, FRONT, blobs, limits(MODEL))
    yield blobs, prefill, decode
    prefill.close()
    decode.close()


def random_ids(count, seed=0):
    return tuple(int(t) for t in np.random.default_rng(seed).integers(2, VOCABULARY, count))


def alone(ids, sampling, eos=EOS):
    """The completion by the definition: one token at a time, nothing else in the process."""
    slab, tokens = MODEL.new_slab(MODEL.config.max_context), []
    rows, start = MODEL.embed(ids), 0
    while True:
        out = MODEL.forward([Segment(slab=slab, start=start, rows=rows)])
        token = sample(MODEL.logits(out[-1:])[0], sampling, len(tokens))
        if token == eos:
            return tuple(tokens), FinishReason.STOP
        tokens.append(token)
        text = FRONT.detokenize(tokens)
        if any(s in text for s in sampling.stop):
            return tuple(tokens), FinishReason.STOP
        start += len(rows)
        if len(tokens) == sampling.max_tokens or start >= MODEL.config.max_context:
            return tuple(tokens), FinishReason.LENGTH
        rows = MODEL.embed([token])


def prefilled(stack, ids, sampling, generated=()):
    prompt = Prompt(token_ids=tuple(ids))
    return stack[1].prefill(
        PrefillJob(**job_fields(), prompt=prompt, embeddings=(), sampling=sampling, generated=generated)
    )


def decode(stack, kv, sampling, generated=(), key="", emit=None):
    chunks = []
    job = DecodeJob(**job_fields(key), kv=kv, sampling=sampling, generated=tuple(generated))
    finish = stack[2].decode(job, emit or chunks.append)
    return chunks, finish


def completion(stack, ids, sampling, k=0, generated=()):
    """Tokens and reason through both engines, after a retry behind k tokens."""
    kv = prefilled(stack, ids, sampling, tuple(generated[:k]))
    chunks, finish = decode(stack, kv, sampling, generated[:k])
    assert_gapless(chunks, k)
    assert chunks[-1].finish is finish
    return tuple(generated[:k]) + tuple(t for c in chunks for t in c.tokens), finish


def assert_gapless(chunks, first):
    for chunk in chunks:
        assert chunk.index == first
        first += len(chunk.tokens)
    assert [c.finish is not None for c in chunks] == [False] * (len(chunks) - 1) + [True]


SAMPLINGS = st.builds(
    Sampling,
    max_tokens=st.integers(1, 30),
    temperature=st.sampled_from([0.0, 0.8, 2.0]),
    top_p=st.sampled_from([0.7, 1.0]),
    seed=st.integers(0, 5),
    stop=st.sampled_from([(), ("a",), ("ab", "q"), ("zzz",)]),
)
PROMPTS = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=60)


@given(ids=PROMPTS, sampling=SAMPLINGS, data=st.data())
@settings(max_examples=40, deadline=None)
def test_staged_and_retried_output_is_that_of_one_process(stack, ids, sampling, data):
    expected = alone(ids, sampling)
    assert completion(stack, ids, sampling) == expected
    k = data.draw(st.integers(0, len(expected[0])))
    ended_early = k == len(expected[0]) and sampling.stop and expected[1] is FinishReason.STOP
    if not (ended_early and any(s in FRONT.detokenize(expected[0]) for s in sampling.stop)):
        assert completion(stack, ids, sampling, k, expected[0]) == expected


@given(work=st.lists(st.tuples(PROMPTS, SAMPLINGS), min_size=2, max_size=8))
@settings(max_examples=12, deadline=None)
def test_completions_in_any_mix_equal_each_alone(stack, work):
    calls = [Call(completion, stack, ids, sampling) for ids, sampling in work]
    assert [call.result() for call in calls] == [alone(ids, sampling) for ids, sampling in work]


class TestEnds:
    def test_a_first_token_that_ends_the_text_gives_an_empty_completion(self, stack):
        kv = prefilled(stack, random_ids(5), Sampling(max_tokens=4))
        kv = KVRef(blob=kv.blob, tokens=kv.tokens, first_token=EOS)
        chunks, finish = decode(stack, kv, Sampling(max_tokens=4))
        assert chunks == [TokenChunk(index=0, tokens=(), finish=FinishReason.STOP)]
        assert finish is FinishReason.STOP

    def test_max_tokens_counts_generated_tokens(self, stack):
        sampling = Sampling(max_tokens=3)
        kv = prefilled(stack, random_ids(5), sampling, generated=(7, 8))
        chunks, finish = decode(stack, kv, sampling, generated=(7, 8))
        assert [len(c.tokens) for c in chunks] == [1]
        assert finish is FinishReason.LENGTH

    def test_nothing_is_left_to_say_after_a_retry_behind_the_last_token(self, stack):
        sampling = Sampling(max_tokens=2)
        kv = prefilled(stack, random_ids(5), sampling, generated=(7, 8))
        assert decode(stack, kv, sampling, generated=(7, 8)) == (
            [TokenChunk(index=2, tokens=(), finish=FinishReason.LENGTH)],
            FinishReason.LENGTH,
        )

    def test_a_stop_string_among_the_generated_tokens_ends_at_once(self, stack):
        sampling = Sampling(max_tokens=9, stop=(LETTERS[7] + LETTERS[8],))
        kv = prefilled(stack, random_ids(5), sampling, generated=(7, 8))
        assert decode(stack, kv, sampling, generated=(7, 8))[0] == [
            TokenChunk(index=2, tokens=(), finish=FinishReason.STOP)
        ]

    def test_the_context_bounds_a_completion(self, stack):
        ids, sampling = random_ids(93), Sampling(max_tokens=50, temperature=2.0)
        assert completion(stack, ids, sampling) == alone(ids, sampling)
        assert len(alone(ids, sampling)[0]) <= 96 - 93 + 1


def task_for(position, max_tokens, core, key="k", emit=None):
    c = MODEL.config
    blocks = core.blocks_for(position + max_tokens - 1)
    return DecodeTask(
        key=key,
        deadline_unix_s=0,
        tokens=max_tokens,
        kv=np.zeros((c.layers, 2, c.kv_heads, position, c.head_dim), np.float32),
        position=position,
        index=0,
        token=5,
        last_index=max_tokens - 1,
        blocks=blocks,
        sampling=Sampling(max_tokens=max_tokens),
        emit=emit or (lambda chunk: None),
        text=StopText(FRONT.detokenize),
    )


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 20)), min_size=1, max_size=10),
    st.integers(5, 12),
    st.sets(st.integers(0, 9)),
)
@settings(max_examples=25, deadline=None)
def test_the_budget_is_never_exceeded_and_all_is_freed(work, budget_tiles, dropped):
    core = DecodeCore(MODEL, EOS, limits(MODEL, tokens=budget_tiles * 16, max_batch=4))
    tasks = [task_for(position, count, core, str(i)) for i, (position, count) in enumerate(work)]
    for task in tasks:
        core.admit(task)
    core.step()
    for task in [t for i, t in enumerate(tasks) if i in dropped and not t.future.done()]:
        core.drop(task)
        tasks.remove(task)
    for _ in range(300):
        assert 0 <= core.budget.used_blocks <= core.budget.total_blocks
        assert core.load().batch_size <= 4
        if not core.step():
            break
    assert all(task.future.done() for task in tasks)
    assert core.load().free_kv_bytes == core.load().total_kv_bytes


def test_admission_is_in_order_of_arrival():
    """A small completion does not overtake a large one that waits for room."""
    core = DecodeCore(MODEL, -1, limits(MODEL, tokens=48))
    seen = []
    for key, position in (("a", 30), ("large", 40), ("small", 2)):
        core.admit(task_for(position, 3, core, key, emit=lambda chunk, key=key: seen.append(key)))
    while core.step():
        pass
    assert list(dict.fromkeys(seen)) == ["a", "large", "small"]


def test_a_late_arrival_joins_at_the_next_step():
    core = DecodeCore(MODEL, -1, limits(MODEL))
    seen = []
    core.admit(task_for(3, 50, core, "old", emit=lambda chunk: seen.append("old")))
    core.step()
    core.admit(task_for(3, 2, core, "new", emit=lambda chunk: seen.append("new")))
    core.step()
    assert (seen[:3], sorted(seen[3:])) == (["old", "old", "new"], ["new", "old"])


def test_a_paused_completion_keeps_its_kv_and_takes_no_step():
    core = DecodeCore(MODEL, -1, limits(MODEL))
    seen = []
    task = task_for(3, 50, core, emit=seen.append)
    core.admit(task)
    core.step()
    task.paused, used = True, core.budget.used_blocks
    assert not core.step()
    assert (len(seen), core.budget.used_blocks) == (2, used)
    task.paused = False
    assert core.step()


def test_cancel_frees_the_kv_and_ends_the_call(stack):
    sampling = Sampling(max_tokens=80)
    emitted = threading.Event()
    kv = prefilled(stack, random_ids(5), sampling)
    stack[2].pause("slow|h|1", True)
    call = Call(decode, stack, kv, sampling, (), "slow", lambda chunk: emitted.set())
    assert emitted.wait(10)
    assert stack[2].load().free_kv_bytes < stack[2].load().total_kv_bytes
    stack[2].cancel("slow|h|1")
    with pytest.raises(WorkCancelled):
        call.result()
    eventually(lambda: stack[2].load().free_kv_bytes == stack[2].load().total_kv_bytes)


def test_an_emit_that_fails_ends_its_own_decode_alone(stack):
    sampling = Sampling(max_tokens=20, seed=3)

    def failing(chunk):
        raise BrokenPipeError("reader gone")

    kv = prefilled(stack, random_ids(5), sampling)
    other = Call(completion, stack, random_ids(9), sampling)
    with pytest.raises(BrokenPipeError):
        decode(stack, kv, sampling, emit=failing)
    assert other.result() == alone(random_ids(9), sampling)
    eventually(lambda: stack[2].load().free_kv_bytes == stack[2].load().total_kv_bytes)


def test_kv_of_another_shape_is_invalid(stack):
    kv = prefilled(stack, random_ids(5), Sampling(max_tokens=4))
    for tokens in (0, 4, 6, 97):
        wrong = KVRef(blob=kv.blob, tokens=tokens, first_token=5)
        with pytest.raises(InvalidWork):
            decode(stack, wrong, Sampling(max_tokens=4))


def test_a_completion_larger_than_the_kv_memory_is_invalid(stack):
    small = ReferenceDecode(MODEL, FRONT, stack[0], limits(MODEL, tokens=32))
    kv = prefilled(stack, random_ids(20), Sampling(max_tokens=40))
    with pytest.raises(InvalidWork, match="KV memory"):
        decode((stack[0], None, small), kv, Sampling(max_tokens=40))
    small.close()


def test_a_failing_step_is_a_crash_of_all_in_the_batch(stack):
    class Broken(type(MODEL)):
        def forward(self, segments):
            raise FloatingPointError("kernel")

    broken = ReferenceDecode(Broken(MODEL.config, MODEL.weights), FRONT, stack[0], limits(MODEL))
    kv = prefilled(stack, random_ids(5), Sampling(max_tokens=9))
    calls = [Call(decode, (stack[0], None, broken), kv, Sampling(max_tokens=9)) for _ in range(3)]
    for call in calls:
        with pytest.raises(EngineCrashed, match="kernel"):
            call.result()
