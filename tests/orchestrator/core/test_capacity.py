"""What one replica gets done within the policy's promises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.capacity import (
    Mix,
    decode_batch,
    decode_rate,
    encode_rate,
    isolated_ttft_s,
    kv_capacity_tokens,
    prefill_rate,
    prefill_s,
)
from orchestrator.core.profile import (
    Accelerator,
    ColdStart,
    DecodeTiming,
    EncodeTiming,
    HardwareClass,
    ModelProfile,
    PrefillTiming,
)
from stages.types import Stage

A100 = HardwareClass("a100", 4)
L4 = HardwareClass("l4", 1)
ACCELERATORS = {
    "a100": Accelerator(name="a100", memory_bytes=80_000_000_000, cost_per_h=2.0),
    "l4": Accelerator(name="l4", memory_bytes=24_000_000_000, cost_per_h=0.8),
}
START = ColdStart(node_s=(0.0, 0.0), pull_s=(0.0, 0.0), load_s=(0.0, 0.0))


def profile(*, decode=None, kappa=1):
    return ModelProfile(
        model="m",
        kappa=kappa,
        image_tokens=1280,
        embedding_bytes=15_728_640,
        preprocess_s=0.14,
        kv_bytes_per_token=200_000,
        weights_bytes={
            Stage.ENCODE: 11_000_000_000,
            Stage.PREFILL: 40_000_000_000,
            Stage.DECODE: 40_000_000_000,
        },
        chunk_tokens=2000,
        encode={A100: EncodeTiming(image_s=0.16), L4: EncodeTiming(image_s=0.8)},
        prefill={A100: PrefillTiming(points=((1000, 0.1), (2000, 0.15)), floor_s=0.02)},
        decode={A100: decode or DecodeTiming(step_s=0.010, sequence_s=0.0001, context_token_s=1e-7)},
        cold_start=dict.fromkeys(Stage, START),
    )


mixes = st.builds(
    Mix,
    prompt_tokens=st.floats(1.0, 20_000.0),
    context_tokens=st.floats(1.0, 20_000.0),
    output_tokens=st.floats(1.0, 2_000.0),
)
timings = st.builds(
    DecodeTiming,
    step_s=st.floats(1e-6, 0.1),  # no step takes no time
    sequence_s=st.floats(0.0, 0.001),
    context_token_s=st.floats(0.0, 1e-6),
)
tpots = st.floats(0.001, 0.5)
slots = st.integers(1, 512)
kv_sizes = st.integers(-1000, 2_000_000)


def test_rates():
    assert encode_rate(profile(), A100) == pytest.approx(8000.0)
    assert prefill_rate(profile(), A100) == pytest.approx(2000 / 0.15)


@pytest.mark.parametrize(
    ("where", "tokens"),
    [
        pytest.param(A100, 1_240_000, id="beside-the-weights"),
        pytest.param(L4, -92_000, id="does-not-fit"),
    ],
)
def test_kv_capacity_tokens(where, tokens):
    assert kv_capacity_tokens(profile(), Stage.DECODE, where, ACCELERATORS) == tokens


@pytest.mark.parametrize(
    ("tokens", "seconds"), [(0, 0.0), (500, 0.06), (2000, 0.15), (3000, 0.25), (4500, 0.36)]
)
def test_a_prompt_is_prefilled_in_chunks(tokens, seconds):
    assert prefill_s(profile(), A100, tokens) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("kappa", "images", "seconds"),
    [
        pytest.param(1, 0, 0.1, id="text"),
        pytest.param(1, 1, 0.14 + 0.16 + 0.15 + 0.02 + 0.08 * 0.28, id="image-tokens-load-prefill"),
        pytest.param(0, 1, 0.14 + 0.16 + 0.1, id="cross-attention"),
        pytest.param(0, 4, 0.14 + 0.16 + 0.1, id="images-at-once"),
        pytest.param(0, 5, 0.14 + 2 * 0.16 + 0.1, id="two-rounds"),
    ],
)
def test_isolated_ttft_s(kappa, images, seconds):
    alone_s = isolated_ttft_s(
        profile(kappa=kappa), A100, A100, images=images, text_tokens=1000, images_at_once=4
    )
    assert alone_s == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("tpot_s", "most", "kv_tokens", "batch"),
    [
        pytest.param(0.05, 512, 10_000_000, 190, id="tpot"),
        pytest.param(0.05, 64, 10_000_000, 64, id="slots"),
        pytest.param(0.05, 512, 60_000, 50, id="kv"),
        pytest.param(0.009, 512, 10_000_000, 0, id="step-alone-is-too-slow"),
        pytest.param(0.05, 512, 1_199, 0, id="not-even-one"),
        pytest.param(0.05, 512, -5, 0, id="model-does-not-fit"),
    ],
)
def test_decode_batch(tpot_s, most, kv_tokens, batch):
    mix = Mix(prompt_tokens=1000.0, context_tokens=1000.0, output_tokens=200.0)
    assert decode_batch(profile(), A100, mix, tpot_s=tpot_s, slots=most, kv_tokens=kv_tokens) == batch


@given(timings, mixes, tpots, slots, kv_sizes)
def test_a_batch_is_within_tpot_slots_and_kv(timing, mix, tpot_s, most, kv_tokens):
    batch = decode_batch(profile(decode=timing), A100, mix, tpot_s=tpot_s, slots=most, kv_tokens=kv_tokens)
    assert 0 <= batch <= most
    if batch:
        alive = mix.context_tokens + mix.output_tokens / 2.0
        assert timing.itl_s(batch, batch * alive) <= tpot_s * (1.0 + 1e-9)
        assert batch * (mix.context_tokens + mix.output_tokens) <= kv_tokens * (1.0 + 1e-9)


@given(timings, mixes, tpots, tpots, slots, kv_sizes)
def test_a_looser_tpot_never_means_a_lower_rate(timing, mix, a, b, most, kv_tokens):
    tight, loose = (
        decode_rate(profile(decode=timing), A100, mix, tpot_s=tpot_s, slots=most, kv_tokens=kv_tokens)
        for tpot_s in sorted((a, b))
    )
    assert tight <= loose * (1.0 + 1e-9)


def test_no_batch_has_no_rate():
    mix = Mix(prompt_tokens=1000.0, context_tokens=1000.0, output_tokens=200.0)
    assert decode_rate(profile(), A100, mix, tpot_s=0.001, slots=8, kv_tokens=10_000) == 0.0
