"""What the simulator is timed with beside vidur."""

from bench.simulator import text_ours


def test_text_requests_are_simulated_to_their_end() -> None:
    """A mean latency is a number only if every request was answered."""
    found = text_ours(50)
    assert 0.0 < found.latency_s < 60.0
    assert found.events > 50
