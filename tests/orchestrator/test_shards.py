"""Which shard a service lives on: one, evenly, and the same for as long as can be."""

from collections import Counter

import pytest

from orchestrator.shards import shard_of

SERVICES = [f"service-{number}" for number in range(1_000)]


def test_one_shard_has_all_services():
    assert {shard_of(service, 1) for service in SERVICES} == {0}


@pytest.mark.parametrize("shards", [2, 3, 8])
def test_services_are_spread_evenly(shards):
    counts = Counter(shard_of(service, shards) for service in SERVICES)
    assert set(counts) == set(range(shards))
    fair = len(SERVICES) / shards
    assert all(abs(count - fair) < 4.0 * fair**0.5 for count in counts.values())


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_a_further_shard_takes_services_over_and_moves_no_other(shards):
    before = {service: shard_of(service, shards) for service in SERVICES}
    after = {service: shard_of(service, shards + 1) for service in SERVICES}
    moved = {after[service] for service in SERVICES if after[service] != before[service]}
    assert moved == {shards}


def test_a_service_stays_where_earlier_releases_put_it():
    """Processes of two releases must agree while pods are replaced."""
    assert [shard_of(service, 4) for service in ("tiny", "noop", "internvl-26b", "llama-11b")] == [2, 3, 3, 0]
