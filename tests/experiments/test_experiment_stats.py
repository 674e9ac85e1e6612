import math

import pytest

from experiments.point import QUICK, Findings, Measured, point
from experiments.stats import interval, precise


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


def findings(**values):
    """One figure of each system by seed."""
    measured = [
        Measured(point=point(system=system), seed=seed, row={"x": value}, wall_s=1.0, code="c0de")
        for system, by_seed in values.items()
        for seed, value in by_seed.items()
    ]
    return Findings(scale=QUICK, measured=measured)


def test_ratios_are_taken_seed_by_seed():
    """A seed that one lacks is left out, and so is what has nothing to be divided by."""
    found = findings(one={0: 2.0, 1: 9.0, 2: 5.0, 3: 4.0}, other={0: 1.0, 2: 2.5, 3: 0.0})
    assert found.ratios(point(system="one"), point(system="other"), "x") == [2.0, 2.0]


def test_the_ends_of_a_single_run_are_its_value():
    assert (interval([3.0]).low, interval([3.0]).high) == (3.0, 3.0)
    found = interval([1.0, 2.0, 3.0])
    assert found.low == pytest.approx(2.0 - found.half)


def test_precise_is_within_the_tolerance():
    assert precise([1.0, 1.0, 1.0], 0.01)
    assert not precise([1.0, 2.0, 1.0], 0.01)
