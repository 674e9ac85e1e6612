import math

import pytest

from experiments.stats import interval, precise, ratios


def test_an_interval_is_that_of_students_t():
    """Five values of standard deviation 1 and t(4) = 2.776."""
    found = interval([9.0, 9.5, 10.0, 10.5, 11.0])
    assert found.mean == 10.0
    assert found.half == pytest.approx(2.776 * math.sqrt(0.625) / math.sqrt(5))


def test_one_value_has_no_interval_and_none_is_a_dash():
    assert math.isinf(interval([3.0]).half)
    assert interval([3.0]).text == "3.00"
    assert interval([]).text == "–"


@pytest.mark.parametrize(
    ("values", "text"),
    [([1234.0, 1234.0], "1,234 ± 0"), ([0.123, 0.123], "0.123 ± 0.000"), ([12.3, 12.3], "12.3 ± 0.0")],
)
def test_a_figure_has_three_digits(values, text):
    assert interval(values).text == text


def test_ratios_are_taken_seed_by_seed():
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]


def test_precise_is_within_the_tolerance():
    assert precise([1.0, 1.0, 1.0], 0.01)
    assert not precise([1.0, 2.0, 1.0], 0.01)
