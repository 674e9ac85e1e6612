"""The shared decoder computes what the papers say, and a row's bits depend on its own past alone."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.transformer import Rope, Segment
from tests.stages.engine_kit import VOCABULARY, small_model

MODELS = {rope: small_model(rope) for rope in Rope}
TOKENS = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=70)


def prefilled(model, ids, cuts=(), slab=None, start=0):
    """KV and last logits of `ids` computed in the chunks that `cuts` make."""
    slab = model.new_slab(len(ids)) if slab is None else slab
    edges = [start, *sorted({c for c in cuts if start < c < len(ids)}), len(ids)]
    for a, b in itertools.pairwise(edges):
        out = model.forward([Segment(slab=slab, start=a, rows=model.embed(ids[a:b]))])
    return slab[:, :, :, : len(ids)], model.logits(out[-1:])[0]


def textbook_logits(model, ids):
    """One float64 pass over the whole sequence, straight from the definitions."""
    c, w = model.config, model.weights

    x = w.embedding[ids].astype(np.float64)
    angle = np.outer(np.arange(len(ids)), c.theta ** -(np.arange(0, c.head_dim, 2) / c.head_dim))
    halves = c.rope is Rope.HALVES
    first = slice(None, c.head_dim // 2) if halves else slice(0, None, 2)
    second = slice(c.head_dim // 2, None) if halves else slice(1, None, 2)

    def norm(x, gain):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + c.eps) * gain

    def rope(x):
        out = np.empty_like(x)
        out[:, first] = x[:, first] * np.cos(angle) - x[:, second] * np.sin(angle)
        out[:, second] = x[:, first] * np.sin(angle) + x[:, second] * np.cos(angle)
        return out

    for layer in w.layers:
        heads = (norm(x, layer.attention_norm) @ layer.qkv).reshape(len(ids), -1, c.head_dim)
        mixed = []
        for head in range(c.heads):
            group = head // (c.heads // c.kv_heads)
            q, k = rope(heads[:, head]), rope(heads[:, c.heads + group])
            score = q @ k.T / np.sqrt(c.head_dim) + np.triu(np.full((len(ids),) * 2, -np.inf), 1)
            weight = np.exp(score - score.max(-1, keepdims=True))
            mixed.append(weight / weight.sum(-1, keepdims=True) @ heads[:, c.heads + c.kv_heads + group])
        x = x + np.concatenate(mixed, -1) @ layer.output
        gate, up = np.split(norm(x, layer.mlp_norm) @ layer.gate_up, 2, -1)
        x = x + (gate / (1 + np.exp(-gate)) * up) @ layer.down
    return norm(x[-1], w.final_norm) @ w.head


@pytest.mark.parametrize("rope", Rope)
@pytest.mark.parametrize("length", [1, 16, 17, 50])
def test_logits_are_those_of_the_definitions(rope, length):
    ids = np.random.default_rng(length).integers(0, VOCABULARY, length)
    _, logits = prefilled(MODELS[rope], ids)
    np.testing.assert_allclose(logits, textbook_logits(MODELS[rope], ids), atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("rope", Rope)
@given(ids=TOKENS, cuts=st.lists(st.integers(1, 70), max_size=6))
@settings(max_examples=40, deadline=None)
def test_chunks_do_not_change_a_bit(rope, ids, cuts):
    kv, logits = prefilled(MODELS[rope], ids)
    cut_kv, cut_logits = prefilled(MODELS[rope], ids, cuts)
    assert np.array_equal(kv, cut_kv)
    assert np.array_equal(logits, cut_logits)


@given(ids=TOKENS, k=st.integers(1, 70))
@settings(max_examples=30, deadline=None)
def test_kv_of_a_generated_token_equals_its_kv_as_a_prompt_token(ids, k):
    """What a retry prefills after k tokens is what the lost decode had."""
    k = min(k, len(ids))
    model = MODELS[Rope.HALVES]
    one_by_one = range(k, len(ids))
    kv, logits = prefilled(model, ids)
    decoded_kv, decoded_logits = prefilled(model, ids, one_by_one)
    assert np.array_equal(kv, decoded_kv)
    assert np.array_equal(logits, decoded_logits)


@pytest.mark.parametrize("rope", Rope)
@given(prompts=st.lists(TOKENS, min_size=1, max_size=12), lone=st.integers(0, 11), data=st.data())
@settings(max_examples=40, deadline=None)
def test_neighbours_do_not_change_a_bit(rope, prompts, lone, data):
    """Prefill chunks and decode rows of any other sequences share the step."""
    model = MODELS[rope]
    lone = lone % len(prompts)
    segments, rows = [], [0]
    for ids in prompts:
        start = data.draw(st.integers(0, len(ids) - 1))
        slab = model.new_slab(len(ids))
        if start:
            prefilled(model, ids[:start], slab=slab)
        segments.append(Segment(slab=slab, start=start, rows=model.embed(ids[start:])))
        rows.append(rows[-1] + len(ids) - start)
    logits = model.logits(model.forward(segments))[rows[lone + 1] - 1]
    kv, expected = prefilled(model, prompts[lone])
    assert np.array_equal(logits, expected)
    assert np.array_equal(segments[lone].slab[:, :, :, : len(prompts[lone])], kv)


def test_a_neighbour_of_nans_harms_nobody():
    model = MODELS[Rope.HALVES]
    bad = Segment(slab=model.new_slab(1), start=0, rows=np.full((1, model.config.width), np.nan, np.float32))
    good = Segment(slab=model.new_slab(3), start=0, rows=model.embed([4, 5, 6]))
    logits = model.logits(model.forward([bad, good]))[-1]
    assert np.array_equal(logits, prefilled(model, [4, 5, 6])[1])


def test_long_sequences_attend_alone_with_the_same_bits(monkeypatch):
    """Whether rows are stacked or attend one by one is a matter of speed."""
    model = MODELS[Rope.HALVES]
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, VOCABULARY, n) for n in (5, 12, 13, 40)]

    def step():
        segments = []
        for ids in prompts:
            slab = model.new_slab(len(ids))
            prefilled(model, ids[:-1], slab=slab)
            segments.append(Segment(slab=slab, start=len(ids) - 1, rows=model.embed(ids[-1:])))
        return model.logits(model.forward(segments))

    stacked = step()
    monkeypatch.setattr("stages.transformer._STACK_BYTES", 0)
    assert np.array_equal(step(), stacked)
