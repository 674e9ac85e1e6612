"""How growth is judged and drawn."""

from xml.etree import ElementTree

import pytest

from bench.decide import NODES_ALONE, SERVICES_ALONE, SIZES, exponent, n_log_n
from bench.decide_plot import draw


@pytest.mark.parametrize("power", [0.5, 1.0, 1.6])
def test_the_exponent_of_a_power_is_its_own(power: float) -> None:
    assert exponent({n: 3.0 * n**power for n in (10, 20, 40)}) == pytest.approx(power)


def test_n_log_n_lies_a_little_above_linear() -> None:
    """From 625 to 5,000: log(5,000·ln 5,000 / (625·ln 625)) / log 8."""
    assert n_log_n(625, 5_000) == pytest.approx(1.135, abs=0.001)


def test_a_plot_has_a_line_for_each_series_and_one_for_n_log_n() -> None:
    sizes = {*SIZES, *NODES_ALONE, *SERVICES_ALONE}
    figures = {f"decide.{services}x{nodes}": {"value": 0.02 * nodes} for services, nodes in sizes}
    drawn = ElementTree.fromstring(draw(figures))
    paths = [each for each in drawn.iter() if each.get("class") == "line"]
    assert len(paths) == 2 * 4  # each with its swatch in the legend
