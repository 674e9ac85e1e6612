"""Demand, by numbers."""

import pytest

from orchestrator.core import demand


@pytest.mark.parametrize(
    ("waiting", "inflow", "capacity", "lead_s", "ahead"),
    [
        pytest.param(0.0, 100.0, 100.0, 60.0, 0.0, id="balanced"),
        pytest.param(500.0, 90.0, 100.0, 60.0, 0.0, id="gone-by-then"),
        pytest.param(500.0, 95.0, 100.0, 60.0, 200.0, id="some-left"),
        pytest.param(0.0, 110.0, 100.0, 60.0, 600.0, id="grows"),
        pytest.param(0.0, 900.0, 100.0, 60.0, 1_000.0, id="until-admission-refuses"),
        pytest.param(5_000.0, 900.0, 100.0, 60.0, 5_000.0, id="or-as-it-is"),
    ],
)
def test_backlog_ahead(waiting, inflow, capacity, lead_s, ahead):
    assert demand.backlog_ahead(waiting, inflow, capacity, lead_s, queue_s=10.0) == ahead


def test_encode():
    """A quarter from the cache, and a backlog."""
    assert demand.encode_demand(1_000.0, 0.25, 50.0) == 800.0


@pytest.mark.parametrize(
    ("capacity", "images"),
    [pytest.param(400.0, 650.0, id="caps"), pytest.param(9_000.0, 1_050.0, id="surges")],
)
def test_images_that_reach_prefill(capacity, images):
    """Cache hits need no encoder."""
    load = demand.encode_demand(1_000.0, 0.25, 50.0)
    assert demand.image_inflow(1_000.0, 0.25, load, capacity) == images


@pytest.mark.parametrize(("kappa", "load"), [(0, 105.0), (1, 605.0)])
def test_prefill(kappa, load):
    assert demand.prefill_demand(200.0, 1_000.0, kappa, 0.5, 5.0) == load


def test_requests_that_reach_decode():
    assert demand.request_inflow(10.0, 2.0, 100.0) == 12.0
    assert demand.request_inflow(10.0, 2.0, 5.0) == 5.0


def test_decode():
    """What flows in, or what gets done if that is more."""
    assert demand.decode_demand(500.0, 10.0, 100.0, 20.0) == 1_020.0
    assert demand.decode_demand(1_500.0, 10.0, 100.0, 20.0) == 1_520.0
