"""kappa = 0: images are in no prompt, but their keys and values are held, moved and read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.core.capacity import USABLE_MEMORY, Mix, decode_batch, kv_capacity_tokens
from orchestrator.core.kv import kv_bytes as reserved_bytes
from orchestrator.core.profile import HardwareClass
from orchestrator.core.scaling.static import StaticParams
from orchestrator.kv_rules import CurrentKvRules
from orchestrator.simulator.replica import SimReplica
from orchestrator.simulator.run import simulate
from orchestrator.simulator.scenario import load_subject
from orchestrator.simulator.systems import SYSTEMS
from orchestrator.simulator.tenant import speeds
from orchestrator.simulator.workload import TRACED_IMAGE_TOKENS, Workload
from stages.types import Stage

ROOT = Path(__file__).parents[3]
POLICY = """\
apiVersion: tercet/v1
service: llama
model: {name: meta-llama/Llama-3.2-11B-Vision-Instruct, kappa: 0, max_context: 32768}
stages:
  encode:  {engine: vllm, hardware: [l40s], tp: 1, batch: 1, min: 1, max: 64, budget_s: 0.6}
  prefill: {engine: vllm, hardware: [h100], tp: 1, batch: 64, min: 1, max: 8, budget_s: 0.5}
  decode:  {engine: vllm, hardware: [h20], tp: 1, batch: 64, min: 1, max: 8}
slo: {ttft_s: 30.0, tpot_s: 0.5}
"""
IMAGES, TEXT, OUTPUT = 2, 1_000, 50
DECODE = HardwareClass("h20", 1)


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    """Six equal requests at once."""
    file = tmp_path_factory.mktemp("policy") / "llama.yaml"
    file.write_text(POLICY)
    trace = ROOT / "data/traces/azure_lmm_window_2024-10-16.csv"
    loaded = load_subject(file, trace)
    tokens = TEXT + IMAGES * TRACED_IMAGE_TOKENS
    work = Workload(
        name="six",
        label="made",
        arrival_s=np.zeros(6),
        images=np.full(6, IMAGES, np.int32),
        context_tokens=np.full(6, tokens, np.int32),
        output_tokens=np.full(6, OUTPUT, np.int32),
        span_s=1.0,
    )
    return replace(loaded, workload=work)


def kv_bytes(profile, output_tokens):
    return (TEXT + output_tokens) * profile.kv_bytes_per_token + IMAGES * profile.image_kv_bytes


class Scales:
    """A link that takes no time and notes what goes over it."""

    def __init__(self):
        self.seen = []

    def transfer_s(self, size_bytes):
        self.seen.append(size_bytes)
        return 0.0


def test_images_move_with_the_kv_cache(subject):
    """From prefill to decode go the keys and values of the text and of both images."""
    scales = Scales()
    scenario = subject.scenario(scaling="static", params=StaticParams(encode=4))
    simulate(replace(scenario, tenants=(replace(scenario.only, links=[scales]),)))
    profile = subject.control.profile
    moved = [size for size in scales.seen if size != profile.embedding_bytes]
    assert moved == [kv_bytes(profile, 0)] * 6


def test_decode_reserves_what_a_gateway_would_reserve(subject, monkeypatch):
    """The gateway has its sizes from the policy file and the profile that it finds for it."""
    taken, take = [], SimReplica.take

    def noting(replica, hop):
        if replica.stage is Stage.DECODE:
            taken.append(hop)
        take(replica, hop)

    monkeypatch.setattr(SimReplica, "take", noting)
    simulate(subject.scenario(scaling="static", params=StaticParams(encode=4)))
    profile = subject.control.profile
    live = CurrentKvRules("llama.yaml", profile.kv_bytes_per_token).of(subject.policy).sizes
    assert [hop.kv_bytes for hop in taken] == [kv_bytes(profile, OUTPUT)] * 6
    assert [reserved_bytes(hop.request.tag, live, OUTPUT) for hop in taken] == [hop.kv_bytes for hop in taken]


def test_decode_holds_as_many_as_control_believes(subject):
    """Memory for two and a half requests: first tokens come in waves of two, and `decode_batch` says two."""
    profile = subject.control.profile
    needed = 2.5 * kv_bytes(profile, OUTPUT) + profile.weights_bytes[Stage.DECODE]
    h20 = replace(subject.control.accelerators["h20"], memory_bytes=int(needed / USABLE_MEMORY))
    accelerators = {**subject.control.accelerators, "h20": h20}
    small = replace(subject, control=replace(subject.control, accelerators=accelerators))
    run = simulate(small.scenario(scaling="static", params=StaticParams(encode=12, prefill=6, decode=1)))
    _, waves = np.unique(np.round(run.only.outcomes.ttft_s, 2), return_counts=True)
    assert waves.tolist() == [2, 2, 2]
    mix = Mix(
        prompt_tokens=TEXT, context_tokens=TEXT + IMAGES * profile.image_kv_positions, output_tokens=OUTPUT
    )
    room = kv_capacity_tokens(profile, Stage.DECODE, DECODE, accelerators)
    assert decode_batch(profile, DECODE, mix, tpot_s=0.5, slots=64, kv_tokens=room) == 2


def test_reading_images_slows_decode(subject):
    """The inter-token latency is that of the text and of the positions whose bytes the images take."""
    scenario = subject.scenario(scaling="static", params=StaticParams(encode=12, prefill=6, decode=6))
    profile = subject.control.profile
    context = TEXT + IMAGES * profile.image_kv_positions + OUTPUT / 2
    expected_s = profile.decode[DECODE].itl_s(1, context)
    run = simulate(scenario)
    assert float(run.only.outcomes.tpot_s.min()) == pytest.approx(expected_s, rel=0.02)


def test_speeds_are_those_of_requests_with_images(subject):
    without = replace(
        subject.workload, images=np.zeros(6, np.int32), context_tokens=np.full(6, TEXT, np.int32)
    )
    system = SYSTEMS["e-p-d"]
    rates = [speeds(subject.control, work, system).rates for work in (subject.workload, without)]
    assert rates[0][Stage.DECODE] < rates[1][Stage.DECODE]
    assert rates[0][Stage.PREFILL] == rates[1][Stage.PREFILL]
