"""coupled: each of its terms, and what it leaves of them when they are switched off."""

from dataclasses import replace

import pytest

from orchestrator.core.autoscaler import plan
from orchestrator.core.planned import ScaleReason, ScalerState
from tests.orchestrator.core.scaling.service import LEADS_S, D, E, P, control, counts_of, service


def decide(seen, now_s=0.0, state=None, policy=None, **params):
    return plan(seen, policy or control(**params), state or ScalerState(), now_s)


def need(which, seen, **params):
    return decide(seen, **params)[0].stages[which].need


def test_each_stage_is_sized_for_its_own_load():
    """40,000 image tokens/s on encoders of 20,000; decode has no queue and takes 0.85 of its rate."""
    decided, _ = decide(service(images=40_000.0, text=10_000.0, requests=10.0))
    assert decided.stages[E].need > 2.0
    assert decided.stages[P].need > 50_000.0 / 15_000.0
    assert decided.stages[D].need == pytest.approx(2_000.0 / (1_200.0 * 0.85))


def test_caches_take_load_off_their_stages():
    cold, warm = service(), service(embedding_hits=0.5, prefix_hits=0.5)
    assert need(E, warm) < need(E, cold)
    assert need(P, warm) < need(P, cold)
    for which in (E, P):
        assert need(which, warm, cache_hits=False) == need(which, cold)


def test_images_load_prefill_only_where_the_model_is_decoder_only():
    seen = service(images=60_000.0, text=1_000.0, counts=(8, 8, 4))
    assert decide(seen, policy=control(kappa=1))[0].stages[P].need > 4.0
    assert decide(seen, policy=control(kappa=0))[0].stages[P].need < 1.0


def test_dispersion_sizes_encode_for_work_that_comes_in_batches():
    bursty = service(stages={E: {"variability": 60.0}})
    assert need(E, bursty) > 1.5 * need(E, service())
    assert need(E, bursty, dispersion=False) == need(E, service(), dispersion=False)


def test_a_backlog_is_drained():
    full = service(counts=(1, 2, 2), images=20_000.0, text=10_000.0, requests=12.0)
    waiting = {"waiting_units": 1e5, "waiting_jobs": 100}
    stuck = service(
        counts=(1, 2, 2),
        images=20_000.0,
        text=10_000.0,
        requests=12.0,
        stages=dict.fromkeys((E, P, D), waiting),
    )
    for which in (E, P, D):
        assert need(which, stuck) > need(which, full)
        assert need(which, stuck, drain=False) == need(which, full, drain=False)


def test_a_backlog_is_drained_no_faster_than_replicas_start():
    """T_drain ≥ lead: what cannot be there sooner is not asked for in plenty."""
    stuck = service(counts=(1, 2, 2), stages={P: {"waiting_units": 1e5, "waiting_jobs": 100}})
    assert need(P, stuck, drain_s=1.0) == need(P, stuck, drain_s=LEADS_S[P]) > need(P, stuck, drain_s=900.0)


def test_a_backlog_that_will_be_gone_by_the_time_of_a_start_is_not():
    idle = service(counts=(4, 6, 4), stages={D: {"waiting_units": 1e5, "waiting_jobs": 500}})
    assert need(D, idle) == need(D, service(counts=(4, 6, 4)))


BURST = {"images": 200_000.0, "text": 10_000.0, "requests": 10.0}


def test_prefill_is_not_grown_for_images_that_no_encoder_lets_through():
    """Encode is at its maximum of 2 and passes a fifth of the images; prefill is sized for that fifth."""
    seen = service(counts=(2, 4, 4), **BURST)
    bounds = {E: (1, 2)}
    capped = decide(seen, policy=control(bounds=bounds))[0].stages[P]
    uncapped = decide(seen, policy=control(bounds=bounds, caps=False))[0].stages[P]
    assert capped.need < 5.0 < 14.0 < uncapped.need


def test_decode_is_not_grown_for_requests_that_no_prefill_lets_through():
    stages = {D: {"done": 2_000.0}}
    seen = service(counts=(4, 1, 4), requests=100.0, text=150_000.0, images=0.0, stages=stages)
    bounds = {P: (1, 1)}
    assert decide(seen, policy=control(bounds=bounds))[0].stages[D].replicas == 4
    assert decide(seen, policy=control(bounds=bounds, caps=False))[0].stages[D].replicas == 8


def test_a_cap_shrinks_nothing():
    """Encode fails to one replica: prefill is not needed now, and will be as soon as encode is back."""
    seen, now = service(counts=(1, 14, 4), **BURST), service(counts=(1, 14, 4), images=10_000.0)
    policy = control(bounds={E: (1, 1)}, settle_s=0.0)
    state = decide(seen, policy=policy)[1]
    decided, _ = decide(seen, now_s=600.0, state=state, policy=policy)
    assert (decided.stages[P].replicas, decided.stages[P].need) == (14, 14.0)
    decided, _ = decide(now, now_s=600.0, state=state, policy=policy)
    assert decided.stages[P].replicas == 7  # half of them at a time


def test_an_encoder_that_drains_its_backlog_surges_prefill():
    """What it lets through then is what arrives and what had waited."""
    waiting = {E: {"waiting_units": 2e6, "waiting_jobs": 1_600}}
    assert need(P, service(counts=(1, 8, 4), stages=waiting)) > need(P, service(counts=(1, 8, 4)))


def test_offered_work_counts_and_not_what_gets_done():
    """In overload prefill does what it can, which says nothing of what it lacks."""
    seen = service(counts=(8, 2, 4), images=0.0, text=120_000.0)
    assert need(P, seen) > 8.0
    assert need(P, seen, offered=False) < 4.0


def test_encode_grows_at_once_and_without_limit_prefill_and_decode_step_by_step():
    decided, _ = decide(service(counts=(1, 1, 1), images=400_000.0, requests=60.0))
    assert decided.stages[E].replicas > 20
    assert (decided.stages[P].replicas, decided.stages[P].reason) == (2, ScaleReason.STEP_LIMIT)


def test_encode_decides_every_5_s_the_others_every_30():
    state = decide(service(counts=(1, 1, 1), images=1_000.0, text=1_000.0, requests=1.0))[1]
    seen = service(counts=(1, 1, 1), images=40_000.0)
    after_5_s, state = decide(seen, now_s=5.0, state=state)
    assert counts_of(after_5_s)[0] > 1
    assert counts_of(after_5_s)[1:] == (1, 1)
    after_30_s, _ = decide(seen, now_s=30.0, state=state)
    assert after_30_s.stages[P].replicas > 1


def test_prefill_and_decode_move_together():
    """Prefill needs 1.2 replicas per replica, decode 1.05, which alone would be within its hysteresis."""
    seen = service(counts=(1, 10, 10), images=0.0, text=157_000.0, requests=53.5)
    together = decide(seen, hysteresis_out=0.1)[0]
    apart = decide(seen, hysteresis_out=0.1, atomic=False)[0]
    assert together.stages[P].replicas == apart.stages[P].replicas > 10
    assert (together.stages[D].replicas, apart.stages[D].replicas) == (11, 10)


def test_a_step_limit_on_one_shortens_the_way_of_both():
    """Prefill wants to go from 2 to 9 and may to 4; decode wants from 4 to 8 and goes the same part of it."""
    seen = service(counts=(1, 2, 4), images=0.0, text=120_000.0, requests=40.0)
    decided, _ = decide(seen, caps=False)
    assert decided.stages[P].replicas == 4
    assert 4 < decided.stages[D].replicas < 8
    assert decided.stages[D].reason is ScaleReason.STEP_LIMIT


def test_a_growth_waits_for_the_last_one():
    seen = service(counts=(2, 2, 2), text=60_000.0, images=0.0)
    state = decide(seen)[1]
    heavier = service(counts=(2, 2, 2), text=200_000.0, images=0.0, stages={P: {"coming": 2}})
    early, state = decide(heavier, now_s=60.0, state=state)
    assert early.stages[P].reason is ScaleReason.COOLDOWN
    late, _ = decide(heavier, now_s=150.0, state=state)
    assert late.stages[P].replicas > early.stages[P].replicas


LIGHT = service(counts=(2, 4, 2), text=1_000.0, images=0.0, requests=1.0)


def test_a_shrinking_waits_for_600_s_from_any_move():
    state = decide(service(counts=(2, 2, 2), text=60_000.0, images=0.0), settle_s=0.0)[1]
    early, late = (decide(LIGHT, now_s=t, state=state, settle_s=0.0)[0].stages[P] for t in (570.0, 630.0))
    assert early.reason is ScaleReason.COOLDOWN
    assert late.replicas < 4


def test_a_shrinking_goes_to_the_highest_need_of_600_s():
    """Prefill has 12; its needs were 6, then under 1: it goes to 6, and on when that was 600 s ago.

    The cooldown is shorter here, so that the needs alone hold it back.
    """
    state = decide(service(counts=(2, 12, 2), text=72_000.0, images=0.0), cooldown_in_s=300.0)[1]
    light = service(counts=(2, 12, 2), text=1_000.0, images=0.0, requests=1.0)
    held, state = decide(light, now_s=330.0, state=state, cooldown_in_s=300.0)
    assert held.stages[P].replicas == 6
    held, state = decide(light, now_s=590.0, state=state, cooldown_in_s=300.0)
    assert (held.stages[P].replicas, held.stages[P].reason) == (6, ScaleReason.STABILISING)
    last, _ = decide(light, now_s=660.0, state=state, cooldown_in_s=300.0)
    assert last.stages[P].replicas == 3


def test_replicas_on_the_way_are_not_asked_for_again():
    seen = service(counts=(4, 2, 4), text=60_000.0, images=0.0, stages={P: {"coming": 4}})
    assert decide(seen)[0].stages[P].replicas == 6


def test_a_service_comes_back_from_zero_as_a_whole():
    """The step rule does not hold from zero."""
    policy = control(bounds=dict.fromkeys((E, P, D), (0, 64)))
    seen = service(counts=(0, 0, 0), images=0.0, text=100_000.0, requests=20.0)
    decided, _ = decide(seen, policy=policy)
    assert decided.stages[E].replicas == 1
    assert decided.stages[P].replicas > 6
    assert decided.stages[D].replicas > 1
    assert all(ScaleReason.FROM_ZERO in stage.trail for stage in decided.stages.values())


class TestForecast:
    def after_two_hours(self, load, **params):
        """Return the last plan of two hours; `load` tells what is offered from the part that has passed."""
        state, reasons = ScalerState(), set()
        for k in range(241):
            seen = service(**load(k / 240.0))
            decided, state = decide(seen, now_s=30.0 * k, state=state, **params)
            reasons.add(decided.stages[P].reason)
        return decided, reasons

    def test_a_trend_of_text_is_carried_forward_by_the_lead(self):
        """It grows from 50,000 by 7 tokens/s each second, so in the 200 s of a start by 1,400."""
        decided, _ = self.after_two_hours(
            lambda part: {"text": 5e4 * (1.0 + part), "images": 0.0, "requests": 20.0 * (1.0 + part)}
        )
        later = service(text=1e5 + 1_389.0, images=0.0, requests=40.0 * 1.01389)
        for which in (P, D):
            assert decided.stages[which].need == pytest.approx(need(which, later), rel=0.003)

    def test_a_growing_load_of_images_is_not(self):
        load = {"text": 10_000.0, "images": 2e5, "requests": 40.0}
        decided, _ = self.after_two_hours(lambda part: load | {"images": 2e5 * part}, caps=False)
        for which in (E, P):
            assert decided.stages[which].need == pytest.approx(need(which, service(**load), caps=False))

    def test_a_falling_load_is_not_either(self):
        """What is there is not given up for what is yet to fall."""
        decided, _ = self.after_two_hours(lambda part: {"text": 1e5 * (2.0 - part), "images": 0.0})
        assert decided.stages[P].need == pytest.approx(need(P, service(text=1e5, images=0.0)))

    def test_a_growth_that_the_forecast_asks_for_says_so(self):
        def steep(part):
            stages = {P: {"utilisation": 0.7}}
            return {"text": 1e4 + 5e5 * part, "images": 0.0, "counts": (2, 4, 9), "stages": stages}

        assert ScaleReason.FORECAST in self.after_two_hours(steep)[1]
        assert ScaleReason.FORECAST not in self.after_two_hours(steep, forecast=False)[1]


class TestBand:
    def learnt(self):
        """Return the state after prefill and decode have needed about 5 and 4 replicas."""
        return decide(service(counts=(2, 6, 5), images=0.0, text=60_000.0, requests=20.0))[1]

    def doubled(self, **stages):
        """Return signals of twice the load; decode's utilisation is pinned high, its KV cache half full."""
        stages = {D: {"kv_usage": 0.5}} | stages
        return service(counts=(2, 6, 5), images=0.0, text=60_000.0, requests=40.0, stages=stages)

    def test_a_stage_without_a_rate_follows_the_other_at_the_ratio_learnt(self):
        state = self.learnt()
        decided, _ = decide(self.doubled(**{P: {"rate": 0.0}}), now_s=200.0, state=state)
        ratio = state.band.prefill / state.band.decode
        assert decided.stages[P].need == pytest.approx(ratio * decided.stages[D].need)
        assert decided.stages[P].reason is ScaleReason.FALLBACK_BAND

    def test_a_stage_whose_signal_is_stale_is_raised_to_it(self):
        blind = self.doubled(**{P: {"fresh": False}})
        assert decide(blind, now_s=200.0, state=self.learnt())[0].stages[P].replicas > 6
        assert decide(blind, now_s=200.0, state=self.learnt(), band="never")[0].stages[P].replicas == 6

    def test_a_stale_stage_is_not_lowered_to_the_ratio(self):
        """What gateways count tells decode's need although its replicas are silent."""
        load = {"images": 0.0, "text": 6_000.0, "requests": 40.0}
        blind = service(counts=(2, 6, 5), stages={D: {"fresh": False}}, **load)
        decided, _ = decide(blind, now_s=200.0, state=self.learnt(), forecast=False)
        assert decided.stages[D].need == pytest.approx(need(D, blind, band="never"))

    def test_a_full_kv_cache_raises_decode_by_a_fifth_at_most(self):
        load = {"images": 0.0, "text": 200_000.0, "requests": 20.0}
        full = service(counts=(2, 20, 5), stages={D: {"kv_usage": 0.99}}, **load)
        decided, _ = decide(full, now_s=200.0, state=self.learnt(), forecast=False)
        assert decided.stages[D].need == pytest.approx(1.2 * need(D, full, band="never"))

    def test_without_a_ratio_a_stage_without_a_rate_holds(self):
        seen = service(counts=(2, 6, 5), images=0.0, stages={P: {"rate": 0.0}})
        decided, _ = decide(seen)
        assert (decided.stages[P].replicas, decided.stages[P].reason) == (6, ScaleReason.NO_SIGNAL)

    def test_below_a_replica_of_load_no_ratio_is_learnt(self):
        _, state = decide(service(counts=(1, 1, 1), images=0.0, text=100.0, requests=0.1))
        assert state.band.decode == 0.0


class TestGuardrail:
    def breached(self, windows, seen, **params):
        state = ScalerState()
        for k in range(windows):
            decided, state = decide(seen, now_s=30.0 * k, state=state, **params)
        return decided, state

    def seen(self, **more):
        return service(counts=(10, 10, 10), images=120_000.0, text=1_000.0, requests=40.0, **more)

    @pytest.mark.parametrize(
        ("ratios", "waits", "blamed", "replicas"),
        [
            pytest.param((1.1, 0.5), (0.4, 0.1), E, 11, id="encode-waits-most"),
            pytest.param((1.1, 0.5), (0.1, 0.4), P, 11, id="prefill-waits-most"),
            pytest.param((1.3, 0.5), (0.1, 0.4), P, 12, id="20-percent-above-1.2"),
            pytest.param((0.5, 1.1), (0.1, 0.4), D, 11, id="decode-for-tpot"),
        ],
    )
    def test_a_breach_that_lasts_grows_the_stage_to_blame(self, ratios, waits, blamed, replicas):
        stages = {E: {"wait_s": waits[0]}, P: {"wait_s": waits[1]}}
        seen = self.seen(ttft_ratio=ratios[0], tpot_ratio=ratios[1], stages=stages)
        assert counts_of(self.breached(2, seen)[0]) == (10, 10, 10)
        decided, _ = self.breached(3, seen)
        assert decided.stages[blamed].replicas == replicas
        assert decided.stages[blamed].reason is ScaleReason.GUARDRAIL
        assert sum(counts_of(decided)) == 20 + replicas
        assert counts_of(self.breached(3, seen, guardrail=False)[0]) == (10, 10, 10)

    def test_it_adds_as_much_as_the_model_asks_for_at_most(self):
        stages = {E: {"wait_s": 0.4}}
        seen = service(counts=(10, 9, 9), images=60_000.0, requests=40.0, ttft_ratio=3.0, stages=stages)
        assert self.breached(90, seen)[0].stages[E].replicas == 7  # of a need of 3.4
        assert self.breached(90, seen, guardrail_most=4.0)[0].stages[E].replicas > 12

    def test_what_is_starting_is_waited_for(self):
        seen = self.seen(ttft_ratio=2.0, stages={P: {"wait_s": 1.0, "coming": 1}})
        assert self.breached(5, seen)[0].stages[P].replicas == 11

    def test_what_was_added_stays_while_the_slo_is_near_and_fades_when_it_is_far(self):
        seen = self.seen(ttft_ratio=1.1, stages={P: {"wait_s": 0.4}})
        _, state = self.breached(3, seen)
        extra = state.guard.extra[P]
        near = replace(seen, ttft_ratio=0.9)
        _, state = decide(near, now_s=120.0, state=state)
        assert state.guard.extra[P] == extra
        _, state = decide(replace(seen, ttft_ratio=0.3), now_s=150.0, state=state)
        assert 0.9 * extra < state.guard.extra[P] < extra


class TestRoleSwitch:
    seen = service(counts=(1, 10, 4), images=0.0, text=30_000.0, requests=30.0)

    before = service(counts=(1, 10, 4), images=0.0, text=130_000.0, requests=10.0)

    def test_a_replica_that_prefill_can_spare_becomes_one_of_decode_without_a_cooldown(self):
        _, state = decide(self.before)
        decided, _ = decide(self.seen, now_s=150.0, state=state, role_switch=True)
        assert sum(counts_of(decided)) == 15
        assert decided.stages[D].replicas > 4
        assert {decided.stages[s].reason for s in (P, D)} == {ScaleReason.ROLE_SWITCH}

    def test_without_it_prefill_waits_for_its_cooldown(self):
        _, state = decide(self.before)
        decided, _ = decide(self.seen, now_s=150.0, state=state)
        assert decided.stages[P].replicas == 10
        assert decided.stages[D].replicas > 4

    def test_replicas_of_another_size_cannot_switch(self):
        policy = control(role_switch=True)
        wide = replace(policy, stages={**policy.stages, D: replace(policy.stages[D], tp=4)})
        decided, _ = decide(self.seen, policy=wide)
        assert decided.stages[D].reason is not ScaleReason.ROLE_SWITCH


RATIO_STEP = {
    "offered": False,
    "caps": False,
    "drain": False,
    "forecast": False,
    "guardrail": False,
    "band": "always",
    "ratio": 0.75,
    "headroom": 0.7,
    "settle_s": 0.0,
    "hysteresis_out": 0.1,
    "cooldown_in_s": 600.0,
    "up": None,
    "down": 1.0,
}


@pytest.mark.parametrize("requests", [1.0, 5.0, 11.0, 19.0, 25.0, 31.0, 60.0])
@pytest.mark.parametrize("counts", [(2, 1, 1), (2, 6, 8), (2, 20, 9), (2, 30, 40)])
def test_coupled_without_its_own_terms_takes_the_ratio_step_of_heteroscale(requests, counts):
    """And nothing more: step by step over an hour in which the load goes up and down."""
    ours = control("coupled", **RATIO_STEP)
    theirs = control("heteroscale", ratio=0.75, target=0.7, damping=1.0, guardrail=False)
    state, other = ScalerState(), ScalerState()
    for k in range(720):
        load = requests * (1.0 + 0.8 * ((k // 60) % 3 - 1))
        seen = service(counts=counts, requests=load, images=0.0)
        mine, state = plan(seen, ours, state, 5.0 * k)
        its, other = plan(seen, theirs, other, 5.0 * k)
        for s in (P, D):
            assert mine.stages[s] == its.stages[s]
        counts = counts_of(mine)
