"""What completions turn out to be, against what they may become."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.output_length import OutputLength


def test_nothing_seen_means_the_most() -> None:
    assert OutputLength().expect(100) == 100


def test_the_mean_follows_what_is_seen() -> None:
    lengths = OutputLength()
    for _ in range(1_000):
        lengths.observe(10)
    assert lengths.expect(500) == 10


@given(st.lists(st.integers(0, 10_000), max_size=20), st.integers(1, 10_000))
def test_an_expectation_is_possible(seen: list[int], most: int) -> None:
    lengths = OutputLength()
    for tokens in seen:
        lengths.observe(tokens)
    assert 1 <= lengths.expect(most) <= most
