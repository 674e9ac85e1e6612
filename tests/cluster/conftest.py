"""One control plane for all tests that want no other; a missing program is built, or the tests fail."""

import pytest

from cli.localcluster.nodes import add_nodes
from cli.localcluster.plane import running
from cli.localcluster.programs import CONTROL_PLANE, programs
from orchestrator.simulator.fleet_spec import parse_fleet
from tests.cluster.objects import LEVELS, Api


@pytest.fixture(scope="session")
def found():
    return programs(CONTROL_PLANE, print)


@pytest.fixture(scope="session")
def plane(found):
    """A control plane with racks of H100s and A100s in two blocks."""
    with running(found) as plane:
        add_nodes(plane.kubeconfig, parse_fleet("h100=24x8,a100=24x8", LEVELS), LEVELS)
        yield plane


@pytest.fixture
def api(plane):
    """Its API in a namespace of the test's own, which is emptied at once when the test ends."""
    with Api(plane.kubeconfig) as api:
        yield api
