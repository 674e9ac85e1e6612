"""summarize(): what samples say of a service, and what they do not."""

from dataclasses import replace

import numpy as np
import pytest

from orchestrator.core.capacity import Mix, decode_rate, kv_capacity_tokens
from orchestrator.core.observed import PlacedReplica, ReplicaState, ServiceSample, StageSample
from orchestrator.core.profile import HardwareClass
from orchestrator.core.signals import IDLE_S, STALE_S, SignalState, summarize
from orchestrator.core.types import StageTag
from orchestrator.simulator.scenario import load_subject
from orchestrator.totals import ServiceTotals
from stages.types import Modality, Stage
from tests.fakes.looks import Looks, reading
from tests.orchestrator.simulator.test_simulate import POLICY, TRACE


@pytest.fixture(scope="module")
def policy():
    return load_subject(POLICY, TRACE).control


def tagged(images: int = 0, text: int = 100) -> StageTag:
    return StageTag(
        modalities=frozenset({Modality.TEXT}),
        stages=tuple(Stage),
        item_tokens=(1_280,) * images,
        prefill_tokens=text + 1_280 * images,
        context_tokens=text + 1_280 * images,
        output_tokens=50,
    )


def fed(policy, seconds: int, per_s, seed: int = 0):
    """Offer `per_s(rng)` requests with two images each second; return the signals after `seconds`."""
    rng, state = np.random.default_rng(seed), SignalState()
    totals = ServiceTotals({stage: policy.stages[stage].budget_s for stage in Stage})
    looks, signals = Looks(totals), None
    for second in range(seconds):
        for offset in sorted(rng.uniform(0.0, 1.0, per_s(rng))):
            totals.offered(tagged(images=2), second + offset)
            totals.completed(50, 0.5, True, second + offset)
        if second % 5 == 4:
            sample = looks.at(second + 1.0)
            signals, state = summarize(sample, (), policy, state, second + 1.0)
    return signals, state, looks


def test_rates_are_those_that_were_offered(policy):
    """Three requests a second of two images and a hundred text tokens, whatever is admitted."""
    signals, _, _ = fed(policy, 600, lambda rng: 3)
    assert signals.requests == pytest.approx(3.0)
    assert signals.image_tokens == pytest.approx(3 * 2 * 1_280)
    assert signals.text_tokens == pytest.approx(300)
    assert signals.stages[Stage.PREFILL].offered == pytest.approx(3 * (100 + 2 * 1_280))
    assert signals.output_tokens == pytest.approx(50)
    assert signals.attainment == 1.0


def test_images_in_cross_attention_layers_take_room_in_decode(policy):
    """With kappa = 0, an image is as many positions of decode's KV as take its bytes."""
    own = policy.profile
    profile = replace(own, kappa=0, image_kv_bytes=3_000 * own.kv_bytes_per_token)
    crossed = replace(policy, kappa=0, profile=profile)
    signals, _, _ = fed(crossed, 600, lambda rng: 3)
    decode = crossed.stages[Stage.DECODE]
    where = HardwareClass(decode.hardware[0], decode.tp)
    mix = Mix(prompt_tokens=1.0, context_tokens=100 + 2 * 3_000, output_tokens=50)
    room = kv_capacity_tokens(profile, Stage.DECODE, where, policy.accelerators)
    rate = decode_rate(profile, where, mix, tpot_s=policy.tpot_s, slots=decode.slots, kv_tokens=room)
    assert signals.stages[Stage.DECODE].rate == pytest.approx(rate)


def test_variability_of_pairs_is_twice_that_of_single_images(policy):
    """Poisson arrivals of two equal images at a time: Var(W) / (E(W)·w̄) = 2."""
    signals, _, _ = fed(policy, 3_000, lambda rng: rng.poisson(4.0))
    assert signals.stages[Stage.ENCODE].variability == pytest.approx(2.0, rel=0.15)
    assert signals.stages[Stage.PREFILL].variability == pytest.approx(1.0, rel=0.15)


def test_a_lost_sample_costs_no_truth(policy):
    """Totals are cumulative: a rate over a gap is the mean over it."""
    totals = ServiceTotals(dict.fromkeys(Stage, 0.5))
    looks, state = Looks(totals), SignalState()
    _, state = summarize(looks.at(0.0), (), policy, state, 0.0)
    for second in range(100):
        totals.offered(tagged(), float(second))
    signals, _ = summarize(looks.at(100.0), (), policy, state, 100.0)
    assert signals.requests == pytest.approx(1.0)


def test_an_old_sample_is_not_fresh(policy):
    signals, state, _ = fed(policy, 60, lambda rng: 1)
    assert signals.fresh
    late, _ = summarize(None, (), policy, state, 60.0 + STALE_S + 1.0)
    assert not late.fresh
    assert late.requests == signals.requests


def test_a_service_is_idle_when_nothing_came_for_a_while_and_nothing_is_left(policy):
    _, state, looks = fed(policy, 60, lambda rng: 1)
    at_s = 60.0 + IDLE_S + 5.0
    running = {Stage.DECODE: [reading(Stage.DECODE, in_flight=1)]}
    idle, _ = summarize(looks.at(at_s), (), policy, state, at_s)
    busy, _ = summarize(looks.at(at_s, readings=running), (), policy, state, at_s)
    assert idle.idle
    assert not busy.idle


def test_a_counter_that_began_anew_starts_afresh(policy):
    """A restarted gateway counts from zero: no rate is negative."""
    _, state, _ = fed(policy, 60, lambda rng: 5)
    fresh = ServiceSample(at_s=65.0, requests=1, stages=dict.fromkeys(Stage, StageSample()))
    signals, state = summarize(fresh, (), policy, state, 65.0)
    again, _ = summarize(replace(fresh, at_s=70.0, requests=6), (), policy, state, 70.0)
    assert signals.requests >= 0.0
    assert again.requests == pytest.approx(1.0)


def test_replicas_are_counted_by_their_state(policy):
    def placed(index: int, state: ReplicaState) -> PlacedReplica:
        return PlacedReplica(
            replica_id=str(index),
            service="s",
            stage=Stage.ENCODE,
            hardware="l40s",
            tp=1,
            node_id="n",
            state=state,
        )

    replicas = [placed(i, state) for i, state in enumerate(ReplicaState)]
    signals, _ = summarize(None, replicas, policy, SignalState(), 0.0)
    assert (signals.stages[Stage.ENCODE].ready, signals.stages[Stage.ENCODE].coming) == (1, 2)
