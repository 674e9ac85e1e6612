"""The experiments, in the order of the results."""

from collections.abc import Mapping

from experiments.e1_goodput import E1
from experiments.e2_ratio import E2
from experiments.e3_burst import E3
from experiments.e4_policies import E4
from experiments.e5_signals import E5
from experiments.e6_topology import E6
from experiments.e7_hardware import E7
from experiments.e8_faults import E8
from experiments.e9_targets import E9
from experiments.e10_terms import E10
from experiments.e11_error import E11
from experiments.e12_large import E12
from experiments.point import Experiment

EXPERIMENTS: Mapping[str, Experiment] = {
    each.name: each for each in (E1, E2, E3, E4, E5, E6, E7, E8, E9, E10, E11, E12)
}
