"""Rates count busy time only."""

import time

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
    meter = Meter()
    with meter.busy(), meter.busy():
        end_s = time.monotonic() + 0.1
        while time.monotonic() < end_s:
            pass
    assert 0.1 <= meter.total_busy_s < 0.2


def test_a_replica_that_never_worked_has_no_rate() -> None:
    assert Meter().rate_tokens_per_s() == 0.0
