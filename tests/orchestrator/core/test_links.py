"""How close two replicas have to be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.links import Link, required_level

LINKS = (
    Link(bytes_per_s=1e9, latency_s=0.001),
    Link(bytes_per_s=2e9, latency_s=0.0005),
    Link(bytes_per_s=20e9),
    Link(bytes_per_s=25e9),
)

links = st.lists(st.builds(Link, bytes_per_s=st.floats(1e6, 1e12), latency_s=st.floats(0.0, 1.0)), max_size=5)


@pytest.mark.parametrize(
    ("size_bytes", "budget_s", "level"),
    [
        pytest.param(15.7e6, 0.2, 0, id="image-goes-anywhere"),
        pytest.param(300e6, 0.2, 1, id="small-kv"),
        pytest.param(450e6, 0.2, 2, id="kv"),
        pytest.param(4.5e9, 0.2, 3, id="long-context"),
        pytest.param(6e9, 0.2, None, id="nothing-is-near-enough"),
        pytest.param(0.0, 0.0007, 1, id="latency-counts"),
    ],
)
def test_required_level(size_bytes, budget_s, level):
    assert required_level(size_bytes, LINKS, budget_s) == level


@given(links, st.floats(0.0, 1e12), st.floats(0.0, 100.0))
def test_the_level_keeps_the_budget_and_no_wider_one_does(links, size_bytes, budget_s):
    level = required_level(size_bytes, links, budget_s)
    wider = links if level is None else links[:level]
    assert all(link.transfer_s(size_bytes) > budget_s for link in wider)
    assert level is None or links[level].transfer_s(size_bytes) <= budget_s


@given(links, st.floats(0.0, 1e12), st.floats(0.0, 1e12), st.floats(0.0, 100.0))
def test_more_bytes_never_allow_a_wider_level(links, a, b, budget_s):
    few, many = (required_level(size, links, budget_s) for size in sorted((a, b)))
    assert many is None or (few is not None and few <= many)
