"""How predictions are judged."""

import pytest

from bench.predict_compare import Seen, compare
from bench.predict_report import table


def seen(ttft_s, share):
    return Seen(figures={"ttft_p50": ttft_s}, shares={"prefill": [1.0], "decode": [share, 1.0 - share]})


def test_a_ratio_is_the_median_over_the_repeats():
    row = compare(
        0.3,
        [
            (seen(1.0, 0.5), seen(1.05, 0.5)),
            (seen(2.0, 0.5), seen(2.6, 0.5)),
            (seen(1.0, 0.5), seen(0.9, 0.5)),
        ],
    )[0]
    assert (row.ratio, row.spread) == (pytest.approx(1.05), pytest.approx((0.9, 1.3)))
    assert row.noise == pytest.approx(1.0)
    assert row.met


def test_shares_are_compared_by_difference_and_only_where_there_is_a_choice():
    rows = compare(0.3, [(seen(1.0, 0.60), seen(1.2, 0.66))])
    assert [row.figure for row in rows] == ["ttft_p50", "share of decode-0"]
    assert rows[1].ratio == pytest.approx(0.06)
    assert [row.met for row in rows] == [False, False]


def test_the_table_says_what_was_missed():
    text = table(compare(0.85, [(seen(0.100, 0.5), seen(0.130, 0.5))]))
    assert "| 85% | ttft_p50 | 100 ms | 130 ms | 1.30 [1.30 … 1.30] | 0% | ±10% | **missed** |" in text
    assert "| +0.000 [+0.000 … +0.000] |" in text
