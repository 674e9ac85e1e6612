"""What each stage has to do for a service, from its model's profile."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.profile import (
    ColdStart,
    DecodeTiming,
    EncodeTiming,
    HardwareClass,
    ModelProfile,
    PrefillTiming,
)
from orchestrator.core.stage_work import Demand, Processor, Promises, stage_works
from orchestrator.core.targets import Span
from stages.types import Stage

A100 = HardwareClass("a100", 1)
COLD = ColdStart(node_s=(1.0, 2.0), pull_s=(3.0, 4.0), load_s=(5.0, 6.0))
PROFILE = ModelProfile(
    model="m",
    kappa=1,
    image_tokens=100,
    embedding_bytes=1_000_000,
    preprocess_s=0.1,
    kv_bytes_per_token=1000,
    weights_bytes={Stage.ENCODE: 10**9, Stage.PREFILL: 10**10, Stage.DECODE: 10**10},
    chunk_tokens=1000,
    encode={A100: EncodeTiming(image_s=0.2)},
    prefill={A100: PrefillTiming(points=((1000, 0.1),), floor_s=0.0)},
    decode={A100: DecodeTiming(step_s=0.01, sequence_s=0.001, context_token_s=0.0)},
    cold_start=dict.fromkeys(Stage, COLD),
)
DEMAND = Demand(requests_per_s=2.0, images=3.0, image_share=0.5, text_tokens=200.0, output_tokens=50.0)
PROMISES = Promises(budget_s=dict.fromkeys(Stage, 0.5), tpot_s=0.05, slots=64)
PROCESSOR = Processor(flop_per_s=1e10, bytes_per_s=5e9, like="a100", like_flop_per_s=1e13)


def works(profile=PROFILE, demand=DEMAND):
    return stage_works(profile, demand, PROMISES, PROCESSOR)


def test_encode_takes_an_image_a_call_and_images_of_a_request_arrive_together():
    encode, _, _ = works()
    assert (encode.calls_per_s, encode.arrivals_per_s) == (6.0, 1.0)
    assert encode.timings[A100].call_s == 0.2
    assert encode.variability == 1.0 + 6.0
    assert (encode.request_bytes, encode.response_bytes) == (1e6, 1_000_000)
    assert encode.load_s == Span(5.0, 6.0)


def test_prefill_takes_a_prompt_with_its_images_in_and_hands_out_its_kv_cache():
    _, prefill, _ = works()
    assert prefill.calls_per_s == 2.0
    assert prefill.timings[A100].call_s == pytest.approx(0.05)  # 500 tokens
    assert prefill.request_bytes == 3 * 1_000_000 + 4 * 200
    assert prefill.response_bytes == 500_000


def test_prompts_beyond_a_chunk_take_several_steps():
    _, prefill, _ = works(demand=replace(DEMAND, text_tokens=2200.0))
    assert prefill.timings[A100].call_s == pytest.approx(0.25)


def test_image_tokens_of_cross_attention_models_load_no_prompt_but_the_cache():
    _, prefill, decode = works(replace(PROFILE, kappa=0, image_kv_bytes=7000))
    assert prefill.timings[A100].call_s == pytest.approx(0.02)  # 200 tokens
    assert prefill.response_bytes == decode.request_bytes == 200_000 + 3 * 7000


def test_decode_reads_images_in_cross_attention_layers_like_the_positions_whose_bytes_they_take():
    """Three images of 7,000 bytes, 1,000 a position: 21 positions beside 200 of text and 25 of output."""
    by_context = {A100: DecodeTiming(step_s=0.01, sequence_s=0.0, context_token_s=1e-6)}
    crossing = replace(PROFILE, kappa=0, image_kv_bytes=7000, decode=by_context)
    timing = works(crossing)[2].timings[A100]
    assert timing.piece_s == pytest.approx(0.01 + timing.slots * 246e-6)


def test_decode_has_the_largest_batch_that_keeps_tpot():
    """A step takes 10 ms and 1 ms a sequence: 40 sequences in 50 ms."""
    _, _, decode = works()
    timing = decode.timings[A100]
    assert timing.slots == pytest.approx(40, abs=1)  # 0.04 / 0.001 is not exact
    assert timing.piece_s == timing.first_s == pytest.approx(0.01 + 0.001 * timing.slots)
    assert timing.call_s == pytest.approx(50 * timing.piece_s)
    assert (decode.streams, decode.piece_s) == (True, 0.05)


def test_hardware_that_cannot_keep_tpot_is_left_out():
    slow = DecodeTiming(step_s=0.05, sequence_s=0.001, context_token_s=0.0)
    assert not works(replace(PROFILE, decode={A100: slow}))[2].timings


def test_processors_are_slower_by_arithmetic_or_by_memory():
    encode, prefill, decode = works()
    assert encode.vcpu.call_s == pytest.approx(200.0)
    assert prefill.vcpu.call_s == pytest.approx(50.0)
    assert decode.vcpu.piece_s == pytest.approx((1e10 + 525 * 1000) / 5e9)
    assert decode.vcpu.on_vcpus(4.0).piece_s == pytest.approx(decode.vcpu.piece_s / 4)


def test_a_model_measured_on_a_processor_is_not_guessed_at():
    measured = {A100: EncodeTiming(image_s=0.2), HardwareClass("cpu", 1): EncodeTiming(image_s=7.0)}
    assert works(replace(PROFILE, encode=measured))[0].vcpu.call_s == 7.0
    decode = {HardwareClass("cpu", 1): DecodeTiming(step_s=0.3, sequence_s=0.1, context_token_s=0.0)}
    assert works(replace(PROFILE, decode=decode))[2].vcpu.piece_s == pytest.approx(0.4)
    elsewhere = {HardwareClass("h100", 1): EncodeTiming(image_s=0.1)}
    assert works(replace(PROFILE, encode=elsewhere))[0].vcpu is None


def test_more_cores_run_more_of_the_calls_that_were_measured_on_one():
    """Nobody measured that a call gets faster with them."""
    measured = {HardwareClass("cpu", 1): EncodeTiming(image_s=7.0)}
    timing = works(replace(PROFILE, encode=measured))[0].vcpu.on_vcpus(5.8)
    assert (timing.call_s, timing.slots) == (7.0, 5)


@given(st.floats(0.0, 20.0), st.floats(32.0, 1e5), st.floats(1.0, 1e4))
def test_nothing_is_negative_whatever_the_demand(images, text, output):
    demand = replace(
        DEMAND, images=images, image_share=min(1.0, images), text_tokens=text, output_tokens=output
    )
    for work in works(demand=demand):
        assert min(work.calls_per_s, work.working_bytes, work.request_bytes, work.response_bytes) >= 0.0
        assert all(timing.call_s >= 0.0 for timing in work.timings.values())
        assert work.variability >= 2.0
