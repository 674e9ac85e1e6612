"""What each of the other policies does, by example."""

from dataclasses import replace

import pytest

from orchestrator.core.autoscaler import plan
from orchestrator.core.planned import ScaleReason, ScalerState
from orchestrator.core.scaling import SCALERS
from orchestrator.core.scaling.periodic import Hour
from tests.orchestrator.core.scaling.service import LEADS_S, D, E, P, control, counts_of, service


def decide(policy, seen, now_s=0.0, state=None):
    return plan(seen, policy, state or ScalerState(), now_s)


def follow(policy, moments):
    """Return the plans of (time, signals) in turn."""
    state, plans = ScalerState(), []
    for now_s, seen in moments:
        decided, state = decide(policy, seen, now_s, state)
        plans.append(decided)
    return plans


def busy(utilisation, counts=(4, 4, 4), **more):
    """Return signals with this utilisation of prefill, and the target's of the others."""
    stages = {E: {"utilisation": 0.7}, P: {"utilisation": utilisation} | more, D: {"utilisation": 0.7}}
    return service(counts=counts, stages=stages)


@pytest.mark.parametrize("name", sorted(SCALERS))
def test_each_policy_says_what_it_is(name):
    """Formula, source, inputs, and why one would choose it."""
    text = SCALERS[name].plan.__doc__
    assert "Source" in text
    assert "nputs" in text
    assert "hoose" in text


class TestStatic:
    def test_counts_of_the_file(self):
        seen = service(counts=(9, 9, 9))
        assert counts_of(decide(control("static", encode=2, prefill=3, decode=5), seen)[0]) == (2, 3, 5)
        assert counts_of(decide(control("static-best"), seen)[0]) == (3, 4, 5)

    def test_without_counts_the_minima_and_at_least_one(self):
        bounds = {E: (0, 9), P: (2, 9), D: (3, 9)}
        assert counts_of(decide(control("static", bounds=bounds), service())[0]) == (1, 2, 3)

    def test_no_traffic_changes_nothing(self):
        policy = control("static", encode=2, prefill=3, decode=5)
        assert counts_of(decide(policy, service(idle=True))[0]) == (2, 3, 5)


class TestHpa:
    @pytest.mark.parametrize(
        ("utilisation", "replicas", "reason"),
        [
            pytest.param(1.0, 6, ScaleReason.DEMAND, id="ceil-of-4-over-0.7"),
            pytest.param(0.76, 4, ScaleReason.WITHIN_TOLERANCE, id="within-a-tenth"),
            pytest.param(0.65, 4, ScaleReason.WITHIN_TOLERANCE, id="within-a-tenth-below"),
            pytest.param(0.3, 4, ScaleReason.STABILISING, id="a-dip"),
            pytest.param(None, 4, ScaleReason.NO_SIGNAL, id="unknown"),
        ],
    )
    def test_prefill(self, utilisation, replicas, reason):
        decided, _ = decide(control("hpa"), busy(utilisation))
        assert (decided.stages[P].replicas, decided.stages[P].reason) == (replicas, reason)
        assert decided.stages[D].replicas == 4

    def test_it_shrinks_to_the_most_that_was_wanted_in_300_s(self):
        loads = [(0.0, 0.7), (100.0, 0.5), (200.0, 0.3), (301.0, 0.3), (401.0, 0.3), (501.0, 0.3)]
        plans = follow(control("hpa"), [(now_s, busy(u)) for now_s, u in loads])
        assert [decided.stages[P].replicas for decided in plans][:3] == [4, 4, 4]
        assert plans[-1].stages[P].replicas < 4

    def test_a_growth_under_way_is_not_repeated(self):
        moments = [(0.0, busy(1.0)), (15.0, busy(1.0, coming=2)), (30.0, busy(1.0, coming=2))]
        assert [p.stages[P].replicas for p in follow(control("hpa"), moments)] == [6, 6, 6]


class TestIndependentTps:
    def test_each_stage_by_what_it_gets_done(self):
        seen = service(counts=(1, 1, 1), images=100_000.0, text=0.0, requests=10.0)
        decided, _ = decide(control("independent-tps"), seen)
        assert counts_of(decided) == (2, 2, 2)  # saturated: one replica's rate over 0.7

    def test_without_a_rate_it_holds(self):
        decided, _ = decide(control("independent-tps"), service(stages={P: {"rate": 0.0}}))
        assert decided.stages[P].reason is ScaleReason.NO_SIGNAL


class TestLatencyOnly:
    @pytest.mark.parametrize(
        ("ttft", "tpot", "counts"),
        [
            pytest.param(0.8, 0.8, (10, 10, 10), id="met"),
            pytest.param(1.2, 0.8, (12, 12, 10), id="ttft-grows-encode-and-prefill"),
            pytest.param(0.8, 3.0, (10, 10, 15), id="tpot-grows-decode-by-a-half-at-most"),
            pytest.param(None, None, (10, 10, 10), id="unknown"),
        ],
    )
    def test_growth(self, ttft, tpot, counts):
        seen = service(counts=(10, 10, 10), ttft_ratio=ttft, tpot_ratio=tpot)
        assert counts_of(decide(control("latency-only"), seen)[0]) == counts

    def test_it_shrinks_by_a_tenth_after_300_s_of_calm(self):
        calm = service(counts=(10, 10, 10), ttft_ratio=0.2, tpot_ratio=0.2)
        plans = follow(control("latency-only"), [(0.0, calm), (200.0, calm), (300.0, calm), (400.0, calm)])
        assert [p.stages[P].replicas for p in plans] == [10, 10, 9, 9]


class TestPeriodic:
    policy = control(
        "periodic",
        hours=(
            Hour(hour=8.0, encode=4, prefill=5, decode=6),
            Hour(hour=20.5, encode=1, prefill=2, decode=3),
        ),
        midnight_s=1_000.0,
    )

    @pytest.mark.parametrize(
        ("hour", "counts"),
        [(0.0, (1, 2, 3)), (7.99, (1, 2, 3)), (8.0, (4, 5, 6)), (20.5, (1, 2, 3)), (32.0, (4, 5, 6))],
    )
    def test_the_entry_of_the_hour_holds(self, hour, counts):
        decided, _ = decide(self.policy, service(counts=(1, 1, 1)), now_s=1_000.0 + hour * 3_600.0)
        assert counts_of(decided) == counts


FUTURE = {"times_s": (0.0, 1_000.0, 1_300.0), "counts": {E: (1, 4, 1), P: (2, 6, 2), D: (3, 7, 3)}}


class TestOracle:
    @pytest.mark.parametrize(
        ("now_s", "counts"),
        [
            pytest.param(700.0, (1, 2, 3), id="too-early"),
            pytest.param(800.0, (1, 6, 7), id="one-lead-ahead-of-prefill-and-decode"),
            pytest.param(940.0, (4, 6, 7), id="one-lead-ahead-of-encode"),
            pytest.param(1_299.0, (4, 6, 7), id="needed"),
            pytest.param(1_300.0, (1, 2, 3), id="over"),
        ],
    )
    def test_it_starts_one_lead_early(self, now_s, counts):
        assert LEADS_S == {E: 60.0, P: 200.0, D: 200.0}
        assert counts_of(decide(control("oracle", **FUTURE), service(), now_s=now_s)[0]) == counts

    def test_without_lag_it_has_what_is_needed_now(self):
        policy = control("oracle-zero-lag", **FUTURE)
        assert counts_of(decide(policy, service(), now_s=999.0)[0]) == (1, 2, 3)
        assert counts_of(decide(policy, service(), now_s=1_000.0)[0]) == (4, 6, 7)

    @pytest.mark.parametrize("name", ["oracle", "oracle-zero-lag"])
    def test_without_a_future_it_refuses(self, name):
        with pytest.raises(ValueError, match="only a simulator can give it"):
            decide(control(name, times_s=()), service())


class TestHeteroscale:
    policy = control("heteroscale", ratio=0.5, target=0.5, damping=1.0, period_s=0.0)

    def seen(self, requests, **more):
        return service(counts=(2, 4, 8), requests=requests, images=0.0, **more)

    def test_decode_by_its_throughput_and_prefill_at_half_of_it(self):
        """48 requests/s of 200 tokens are 8 replicas' rate, so 16 at half of it."""
        decided, _ = decide(self.policy, self.seen(48.0))
        assert (decided.stages[D].replicas, decided.stages[P].replicas) == (16, 8)
        assert decided.stages[P].reason is ScaleReason.RATIO

    def test_damping_goes_a_part_of_the_way_and_at_least_one(self):
        damped = replace(self.policy, params=replace(self.policy.params, damping=0.5))
        assert decide(damped, self.seen(48.0))[0].stages[D].replicas == 12
        one = service(counts=(1, 1, 1), requests=4.5, images=0.0)
        assert decide(damped, one)[0].stages[D].replicas == 2

    def test_it_holds_within_the_hysteresis(self):
        assert counts_of(decide(self.policy, self.seen(26.0))[0])[1:] == (4, 8)

    @pytest.mark.parametrize(("ratio", "counts"), [(0.9, (4, 8)), (1.1, (5, 9)), (1.3, (5, 10))])
    def test_a_breach_adds_a_fixed_step_to_both(self, ratio, counts):
        assert counts_of(decide(self.policy, self.seen(24.0, ttft_ratio=ratio))[0])[1:] == counts


HEAVY = {"images": 100_000.0, "text": 20_000.0, "requests": 60.0}


class TestModserve:
    def test_offered_tokens_over_capacity(self):
        decided, _ = decide(control("modserve", headroom=1.0), service(**HEAVY))
        assert counts_of(decided) == (5, 8, 10)

    def test_a_cross_attention_model_prefills_text_only(self):
        decided, _ = decide(control("modserve", headroom=1.0, kappa=0), service(**HEAVY))
        assert counts_of(decided) == (5, 2, 10)

    def test_it_decides_every_300_s_and_earlier_when_attainment_suffers(self):
        policy, calm = control("modserve"), service()
        heavy = service(**HEAVY)
        plans = follow(policy, [(0.0, calm), (200.0, heavy), (300.0, heavy)])
        assert counts_of(plans[1]) == counts_of(plans[0]) != counts_of(plans[2])
        plans = follow(policy, [(0.0, calm), (40.0, replace(heavy, attainment=0.98))])
        assert counts_of(plans[1]) != counts_of(plans[0])


class TestDynamoLike:
    policy = control("dynamo-like")

    def test_a_rising_load_is_forecast_for_the_next_period(self):
        """Images rise from nothing to one replica's rate over 0.8 in an hour; the next 180 s are added."""
        moments = [(180.0 * k, service(images=1_000.0 * k)) for k in range(21)]
        ahead = follow(self.policy, moments)[-1].stages[E].need
        assert ahead > 1.02 * 20_000.0 / (20_000.0 * 0.8)

    def test_latency_adds_a_replica_and_takes_it_back(self):
        slow = service(counts=(4, 4, 4), stages={P: {"wait_s": 1.0}})
        plans = follow(self.policy, [(0.0, slow), (5.0, slow), (7.0, slow)])
        assert [p.stages[P].replicas for p in plans] == [5, 6, 6]
        fast = service(counts=(4, 4, 4), stages={P: {"wait_s": 0.01}})
        least = decide(self.policy, fast)[0].stages[P]
        assert (least.replicas, least.need) == (3, pytest.approx(30_000.0 / 12_000.0, rel=0.01))

    def test_nothing_is_added_while_a_replica_is_starting(self):
        slow = service(counts=(4, 4, 4), stages={P: {"wait_s": 1.0, "coming": 1}})
        assert decide(self.policy, slow)[0].stages[P].replicas == 5

    def test_a_slow_decode_is_corrected_for(self):
        seen = service(counts=(4, 4, 4), requests=40.0, tpot_ratio=1.5)
        assert decide(self.policy, seen)[0].stages[D].need == pytest.approx(1.5 * 8_000.0 / 960.0)


class TestThresholdOr:
    policy = control("threshold-or")

    @pytest.mark.parametrize(
        ("kv", "waiting", "coming", "replicas"),
        [
            pytest.param(0.79, 19, 0, 4, id="neither"),
            pytest.param(0.8, 0, 0, 5, id="kv"),
            pytest.param(0.0, 20, 0, 5, id="queue"),
            pytest.param(0.9, 40, 1, 5, id="starting-already"),
            pytest.param(0.52, 6, 0, 3, id="three-would-do"),
            pytest.param(0.53, 6, 0, 4, id="three-would-be-near-in-kv"),
            pytest.param(0.52, 7, 0, 4, id="three-would-be-near-in-queue"),
        ],
    )
    def test_decode(self, kv, waiting, coming, replicas):
        stages = {D: {"kv_usage": kv, "waiting_jobs": waiting, "coming": coming}}
        assert decide(self.policy, service(stages=stages))[0].stages[D].replicas == replicas
