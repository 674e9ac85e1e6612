import json

import pytest

from bench.burst import TPOT_S, TTFT_S, Ask, burst
from bench.played import Played
from cli.pressure.answers import Timed


def test_the_same_seed_is_the_same_burst():
    """So contenders of a round get equal requests, and another round others."""
    once, again, other = (burst(130.0, 132.0, 2.0, seed) for seed in (1, 1, 2))
    assert once == again
    assert {ask.body for ask in once}.isdisjoint(ask.body for ask in other)


def test_a_burst_has_both_modalities_and_targets_by_size():
    """Nobody has less time than the policy's target; images take more."""
    asks = burst(130.0, 150.0, 2.0, 0)
    assert min(ask.ttft_s for ask in asks if not ask.images) == TTFT_S
    assert min(ask.ttft_s for ask in asks if ask.images > 1) > TTFT_S
    body = json.loads(next(ask for ask in asks if ask.images == 2).body.partition(b"\r\n\r\n")[2])
    assert [part["type"] for part in body["messages"][0]["content"]] == ["text", "image_url", "image_url"]


@pytest.mark.parametrize(
    ("ttft_s", "tpot_s", "met"),
    [
        pytest.param(1.0, 0.01, True, id="within"),
        pytest.param(3.0, 0.01, False, id="late"),
        pytest.param(1.0, 2 * TPOT_S, False, id="slow"),
        pytest.param(None, 0.0, False, id="refused"),
    ],
)
def test_goodput_counts_what_met_both_targets(ttft_s, tpot_s, met):
    """A request without an answer is a miss."""
    answer = ttft_s and Timed(
        sent_s=0.0,
        first_s=ttft_s,
        last_s=ttft_s + 10 * tpot_s,
        events=11,
        prompt_tokens=1,
        output_tokens=11,
    )
    played = Played(asks=[Ask(at_s=2.0, images=0, ttft_s=2.0, body=b"")], answers=[answer or None])
    assert played.met == [met]
    assert played.per_s == met / 2.0
