"""`python -m bench cluster` in its quick form: what it measures is measured, and within its goal."""

import pytest

from bench import cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_a_tenth_of_the_nodes_takes_well_below_the_goal():
    told = []
    found = {each.name: each for each in cluster.run(told.append, quick=True)}
    assert found["cluster.nodes"].value == 200
    assert found["cluster.memory.peak"].met
    assert 100.0 < found["cluster.memory.rest"].value <= found["cluster.memory.peak"].value
    assert 0.0 < found["cluster.rest"].value < 2.0
    assert any("kube-apiserver" in line for line in told)
