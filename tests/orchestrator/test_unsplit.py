"""What a gateway knows of replicas that prefill and decode."""

import math

import pytest

from orchestrator.core.types import Replica
from orchestrator.unsplit import Unsplit
from stages.types import Stage

REPLICA = Replica(replica_id="decode-0.1", stage=Stage.DECODE, model="m", slots=8)
TPOT_S = 0.1


def took(known: Unsplit, job: str, now_s: float, tokens: int = 100, expected: int = 11) -> None:
    known.took(
        REPLICA.replica_id, job, prompt_tokens=tokens, expected_tokens=expected, tpot_s=TPOT_S, now_s=now_s
    )


def said(known: Unsplit, job: str, now_s: float, tokens: int = 1) -> None:
    known.said(REPLICA.replica_id, job, tokens, now_s)


@pytest.fixture
def known() -> Unsplit:
    """It has seen a prompt of 100 tokens take a second, with another right behind it."""
    known = Unsplit()
    took(known, "a", now_s=10.0)
    took(known, "b", now_s=10.5)
    said(known, "a", now_s=11.0)
    said(known, "b", now_s=12.0)
    for job in ("a", "b"):
        known.gone(REPLICA.replica_id, job, now_s=13.0)
    return known


def test_nothing_is_known_before_a_prompt_was_seen() -> None:
    known = Unsplit()
    took(known, "a", now_s=0.0)
    assert known.prompt_s(100) == 0.0
    assert known.seen(REPLICA).prompts_s == 0.0


def test_prompts_one_behind_the_other_are_not_counted_twice(known: Unsplit) -> None:
    assert known.rate_tokens_per_s == pytest.approx(100.0)


def test_a_prompt_is_ahead_of_others_until_its_first_token(known: Unsplit) -> None:
    took(known, "c", now_s=20.0, tokens=50)
    assert known.seen(REPLICA).prompts_s == pytest.approx(0.5)
    said(known, "c", now_s=20.5)
    assert known.seen(REPLICA).prompts_s == 0.0


def test_a_request_bears_less_with_each_prompt_behind_it(known: Unsplit) -> None:
    took(known, "c", now_s=20.0)
    assert known.seen(REPLICA).spare_s == pytest.approx(10 * TPOT_S)
    took(known, "d", now_s=20.0, tokens=70, expected=1000)
    assert known.seen(REPLICA).spare_s == pytest.approx(10 * TPOT_S - 0.7)


def test_who_is_late_already_spares_nobody_work(known: Unsplit) -> None:
    took(known, "c", now_s=20.0)
    took(known, "d", now_s=20.0, tokens=1000, expected=1)
    assert known.seen(REPLICA).spare_s == math.inf


def test_a_completion_longer_than_expected_bears_more(known: Unsplit) -> None:
    took(known, "c", now_s=20.0)
    said(known, "c", now_s=21.0, tokens=11)
    said(known, "c", now_s=21.1, tokens=10)
    assert known.seen(REPLICA).spare_s == pytest.approx(20 * TPOT_S)


def test_decoding_itself_takes_its_part_of_the_target(known: Unsplit) -> None:
    took(known, "c", now_s=20.0, expected=21)
    said(known, "c", now_s=21.0)
    said(known, "c", now_s=21.8, tokens=20)
    known.gone(REPLICA.replica_id, "c", now_s=21.8)
    took(known, "d", now_s=30.0)
    assert known.seen(REPLICA).spare_s == pytest.approx(10 * (TPOT_S - 0.04))


def test_nothing_is_left_of_requests_that_are_gone(known: Unsplit) -> None:
    took(known, "c", now_s=20.0)
    known.gone(REPLICA.replica_id, "c", now_s=20.1)
    known.gone(REPLICA.replica_id, "c", now_s=20.2)
    assert known.seen(REPLICA) == REPLICA
