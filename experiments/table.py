"""The experiments, in the order of the results."""

from collections.abc import Mapping

from experiments.e1_goodput import E1
from experiments.e2_ratio import E2
from experiments.e3_burst import E3
from experiments.e9_targets import E9
from experiments.point import Experiment

EXPERIMENTS: Mapping[str, Experiment] = {each.name: each for each in (E1, E2, E3, E9)}
