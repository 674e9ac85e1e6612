"""What pods ask of a node, as kube-scheduler counts it."""

import pytest

from orchestrator.adapters.kube_resources import asked, free

GPU = "nvidia.com/gpu"


def container(gpus=0, *, always=False, **requests):
    resources = {"requests": requests} | ({"limits": {GPU: str(gpus)}} if gpus else {})
    return {"resources": resources} | ({"restartPolicy": "Always"} if always else {})


def pod(*containers, init=()):
    return {"spec": {"containers": list(containers), "initContainers": list(init)}}


@pytest.mark.parametrize(
    ("each", "needs"),
    [
        pytest.param(pod(container()), 0, id="none"),
        pytest.param(pod(container(4), container(1)), 5, id="containers run together"),
        pytest.param(pod(container(1), init=[container(4, always=True)]), 5, id="a sidecar runs with them"),
        pytest.param(pod(container(1), init=[container(4)]), 4, id="an init container runs before"),
        pytest.param(pod(container(4), init=[container(1)]), 4, id="and needs no more if it asks for less"),
        pytest.param(
            pod(container(1), init=[container(2, always=True), container(4)]), 6, id="beside a sidecar above"
        ),
        pytest.param(
            pod(container(1), init=[container(4), container(2, always=True)]), 4, id="not one below"
        ),
        pytest.param({"spec": {"containers": [{}]}}, 0, id="nothing said"),
    ],
)
def test_a_pod_needs_what_runs_at_once(each, needs):
    assert asked(each, GPU) == needs


def test_a_node_has_whole_units_left():
    """Of processors too, which pods ask for by the thousandth; those of other resources do not count."""
    node = {"status": {"allocatable": {"cpu": "16", GPU: "8"}}}
    holders = [pod(container(2, cpu="1500m")), pod(container(cpu="1"))]
    assert (free(node, "cpu", holders), free(node, GPU, holders)) == (13, 6)
    assert free(node, GPU, [pod(container(9))]) == 0
    assert free({}, GPU, []) == 0
