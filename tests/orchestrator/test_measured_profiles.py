"""Fits find the costs that made the tests, and what is written can be read."""

import pytest

from orchestrator.core.profile import HardwareClass
from orchestrator.profiles import find_profile, load_accelerators, parse_profile, profile_path, read_profile
from orchestrator.profiles.convert import model_profile
from orchestrator.profiles.measured import measured_profile, profile_text
from orchestrator.profiles.pressure_fit import shared_host, slowness, stage_costs
from orchestrator.yaml_file import FileError
from stages.types import Stage
from tests.orchestrator import pressed as known

ACCELERATORS = load_accelerators()
CPU = HardwareClass("cpu", 1)
BASE = read_profile(profile_path("tiny"), ACCELERATORS)


def text_of(*factors):
    return profile_text(measured_profile(BASE, known.measured(*factors)))


def load(text):
    return model_profile(parse_profile(text, "p.yaml", ACCELERATORS), ACCELERATORS)


def test_the_costs_of_work_are_found():
    costs, hops = stage_costs(known.round_of().tests, known.CHUNK_TOKENS)
    assert costs.image_s == pytest.approx(known.IMAGE_S)
    assert (costs.prefill_step_s, costs.prefill_token_s) == pytest.approx((known.CHUNK_S, known.TOKEN_S))
    assert costs.decode_step_s == pytest.approx(known.STEP_S)
    assert costs.sequence_s == pytest.approx(known.SEQUENCE_S)
    assert costs.context_token_s == pytest.approx(known.CONTEXT_S)
    assert hops[Stage.PREFILL] == pytest.approx(known.PREFILL_HOP_S)
    assert hops[Stage.DECODE] == pytest.approx(known.DECODE_HOP_S)


def test_the_costs_of_the_way_are_found_and_what_a_wake_adds():
    host = shared_host(known.round_of().tests, known.MACHINE, known.CHUNK_TOKENS)
    found = (host.request_s, host.hop_s, host.event_s, host.wake_s)
    assert found == pytest.approx((known.REQUEST_S, known.HOP_S, known.EVENT_S, known.WAKE_S))
    found = (host.store_hop_s, host.store_write_s, host.store_wake_s)
    assert found == pytest.approx((known.STORE_HOP_S, known.WRITE_S, known.STORE_WAKE_S))
    assert (host.cores, host.slice_s, host.seek) == (2, 0.01, 0.5)


def test_time_that_nobody_waits_for_comes_after_the_answer():
    """Lone requests that take as long as all processor time together leave nothing for later."""
    assert shared_host(known.round_of().tests, known.MACHINE, known.CHUNK_TOKENS).late == pytest.approx(0.0)


def test_slowness_has_mean_one_and_the_spread_of_lone_requests():
    factors = slowness([known.pressed(0, 9, 1, 1)])
    assert sum(factors) / len(factors) == pytest.approx(1.0)
    assert (factors[0], factors[-1]) == pytest.approx((0.9, 1.1))


def test_a_written_profile_is_read_as_it_was_fitted():
    profile = load(text_of(1.0))
    assert profile.encode[CPU].image_s == pytest.approx(known.IMAGE_S, rel=1e-3)
    assert profile.prefill[CPU].step_s(64) == pytest.approx(known.CHUNK_S + 64 * known.TOKEN_S, rel=1e-3)
    expected = known.STEP_S + 8 * (known.SEQUENCE_S + 100 * known.CONTEXT_S)
    assert profile.decode[CPU].itl_s(8, 800) == pytest.approx(expected, rel=1e-3)
    assert profile.cold_start[Stage.DECODE].load_s == (0.8, 1.0)
    assert profile.host is not None
    assert profile.host.worker_hop_s[Stage.DECODE] == pytest.approx(known.DECODE_HOP_S, rel=1e-3)


def test_the_spread_between_rounds_is_written():
    keys = measured_profile(BASE, known.measured(0.9, 1.0, 1.1))
    low, taken, high = keys["host"]["hop_s"]
    assert (low, high) == pytest.approx((0.9 * known.HOP_S, 1.1 * known.HOP_S), rel=1e-3)
    assert low < taken < high
    assert keys["encode"]["rows"][0]["error"] == pytest.approx([0.9, 1.1], rel=0.03)


def test_the_frontier_says_how_many_decode_replicas_a_prefill_replica_feeds():
    """A batch of 32 shares its steps, so fewer replicas do than with lone sequences."""
    frontier = measured_profile(BASE, known.measured(1.0))["frontier"]
    prefill_s = known.PREFILL_HOP_S + 2 * known.CHUNK_S + 80 * known.TOKEN_S
    alone_s = known.DECODE_HOP_S + 21 * (known.STEP_S + known.SEQUENCE_S + 91 * known.CONTEXT_S)
    assert frontier[0]["decode_per_prefill"][1] == pytest.approx(alone_s / prefill_s, rel=1e-3)
    ratios = [each["decode_per_prefill"][1] for each in frontier]
    assert ratios == sorted(ratios, reverse=True)


def test_sizes_are_facts_and_kept():
    measured, shipped = load(text_of(1.0)), find_profile("tiny")
    assert measured.image_tokens == shipped.image_tokens
    assert measured.kv_bytes_per_token == shipped.kv_bytes_per_token
    assert measured.weights_bytes == shipped.weights_bytes


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seek", [0.2, 0.1, 0.3], "ascending"),
        ("seek", [0.2, 0.3, 1.5], "no probability"),
        ("late", [0.2, 0.3, 1.0], "before its answer"),
        ("slice_s", [0.0, 0.01, 0.02], "longer than nothing"),
        ("cores", 0, "greater than or equal to 1"),
        ("source", "nowhere", "not a key of sources"),
        ("coers", 2, "did you mean"),
    ],
)
def test_a_host_that_cannot_be_is_refused(key, value, message):
    keys = measured_profile(BASE, known.measured(1.0))
    keys["host"][key] = value
    with pytest.raises(FileError, match=message):
        load(profile_text(keys))
