"""One control plane for a module's tests, and the clients to it."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kubernetes import client, config

from localcluster.cluster import Cluster, running_cluster
from localcluster.programs import CONTROL_PLANE, ProgramMissing, find_programs
from tests.system.harness import until as poll


@pytest.fixture(scope="session", autouse=True)
def programs() -> None:
    """Fail, not skip: whoever asks for these tests wants to know what holds on a control plane."""
    try:
        find_programs(CONTROL_PLANE, print)
    except ProgramMissing as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def pulumi_cli(programs) -> Path:
    """Where `pulumi` is; built, if it must be, before a test takes the network away."""
    return find_programs(["pulumi"], print)["pulumi"]


@pytest.fixture(scope="module")
def cluster(programs) -> Iterator[Cluster]:
    with running_cluster() as running:
        yield running


@pytest.fixture(scope="module")
def core(cluster) -> client.CoreV1Api:
    return client.CoreV1Api(api(cluster))


@pytest.fixture
def namespace(core) -> Iterator[str]:
    made = core.create_namespace({"metadata": {"generateName": "test-"}}).metadata.name
    yield made
    core.delete_namespace(made)


def api(cluster: Cluster) -> client.ApiClient:
    return config.new_client_from_config(str(cluster.kubeconfig))


def timed(step: Callable[[], object]) -> tuple[float, float]:
    """Return how long a step took, and how long processors worked for it here and in programs that it ran.

    Goals of time are held against the latter: what else the machine does is not ours.
    """
    started = os.times()
    step()
    ended = os.times()
    return ended.elapsed - started.elapsed, sum(ended[:4]) - sum(started[:4])


def until(holds: Callable[[], bool], timeout_s: float = 30.0) -> float:
    """Return after how many seconds it held."""
    started_s = time.monotonic()
    poll("it holds", holds, timeout_s)
    return time.monotonic() - started_s
