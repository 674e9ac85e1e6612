"""Rates count busy time only."""

import time

import pytest

from workers.meter import Meter


def test_idle_time_does_not_lower_the_rate() -> None:
    meter = Meter()
    with meter.busy():
        end_s = time.monotonic() + 0.1
        while time.monotonic() < end_s:
            pass
    meter.count(1000)
    before = meter.rate_tokens_per_s()
    end_s = time.monotonic() + 0.1
    while time.monotonic() < end_s:
        pass
    assert meter.rate_tokens_per_s() == before > 0.0


def test_jobs_side_by_side_share_their_time() -> None:
    alone, together = Meter(), Meter()
    end_s = time.monotonic() + 0.2
    with alone.busy(), together.busy(), together.busy():
        while time.monotonic() < end_s:
            pass
    for meter in (alone, together):
        meter.count(1000)
    assert together.rate_tokens_per_s() == pytest.approx(alone.rate_tokens_per_s(), rel=0.2)


def test_a_replica_that_never_worked_has_no_rate() -> None:
    assert Meter().rate_tokens_per_s() == 0.0


def test_busy_seconds_add_up_without_idle_ones() -> None:
    meter = Meter()
    for _ in range(2):
        with meter.busy(), meter.busy():
            end_s = time.monotonic() + 0.05
            while time.monotonic() < end_s:
                assert meter.busy_s() < 0.2
        before = meter.busy_s()
        while time.monotonic() < end_s + 0.05:
            pass
        assert meter.busy_s() == before
    assert 0.1 <= before < 0.2
