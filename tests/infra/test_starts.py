"""How long simulated nodes and pods are told to take: as the profiles and data/accelerators.yaml say."""

import dataclasses

import pytest

from infra.config import ConfigError
from infra.shared_config import StartsConfig
from infra.stack import stack_args
from orchestrator.control_policy import load_control_policy
from orchestrator.kube_names import COLD_START, HARDWARE, PROVISIONING, STAGE
from stages.types import Stage
from tests.infra.kit import ACCELERATORS, ROOT, config_of, example

NAMES = (COLD_START, f"{COLD_START}-most", PROVISIONING, f"{PROVISIONING}-most")


def seconds(annotations, name):
    """Return between which times a node or pod starts, None if nothing is said of it."""
    given = [annotations.get(each) for each in (name, f"{name}-most")]
    return None if None in given else tuple(float(each.removesuffix("ms")) / 1000 for each in given)


def pods(stack):
    """Yield labels and annotations of the pods of each pool of replicas."""
    for thing in stack.objects():
        if thing["kind"] == "Deployment" and STAGE in thing["metadata"]["labels"]:
            template = thing["spec"]["template"]["metadata"]
            yield template["labels"], template["annotations"]


def nodes(stack):
    for thing in stack.objects():
        if thing["kind"] == "Node":
            yield thing["metadata"]["labels"][HARDWARE], thing["metadata"]["annotations"]


@pytest.mark.parametrize("speed_up", [1.0, 10.0, 0.5])
def test_every_pool_and_node_takes_its_time_divided_by_the_speed_up(speed_up):
    config = dataclasses.replace(example("simulated"), starts=StartsConfig(speed_up=speed_up))
    stack = stack_args(config, ROOT, ACCELERATORS)
    starts = load_control_policy(ROOT / "policies/internvl-26b.yaml").profile.cold_start
    pools = list(pods(stack))
    assert len(pools) == 5
    for labels, annotations in pools:
        start = starts[Stage(labels[STAGE])]
        told = tuple(
            (pull_s + load_s) / speed_up for pull_s, load_s in zip(start.pull_s, start.load_s, strict=True)
        )
        assert seconds(annotations, COLD_START) == pytest.approx(told)
    for hardware, annotations in nodes(stack):
        told = tuple(each / speed_up for each in ACCELERATORS[hardware].provisioning_s)
        assert seconds(annotations, PROVISIONING) == pytest.approx(told)


def test_a_language_model_takes_longer_than_an_encoder():
    told = {labels[STAGE]: seconds(notes, COLD_START) for labels, notes in pods(stack_of_example())}
    assert told["encode"][1] < told["prefill"][0]
    assert told["prefill"] == told["decode"]


def stack_of_example():
    """The shipped stack, which says that it starts ten times as quickly."""
    config = example("simulated")
    assert config.starts == StartsConfig(speed_up=10)
    return stack_args(config, ROOT, ACCELERATORS)


def test_without_the_key_everything_is_there_at_once():
    config = dataclasses.replace(example("simulated"), starts=None)
    for thing in stack_args(config, ROOT, ACCELERATORS).objects():
        assert not any(name in str(thing) for name in NAMES)


def test_a_model_without_a_profile_and_what_has_no_stage_start_at_once():
    services = {"noop": {"policy": "policies/noop.yaml", "autoscaler": "none"}}
    stack = stack_args(config_of(services=services, starts={}), ROOT, ACCELERATORS)
    for thing in stack.objects():
        assert not any(name in str(thing) for name in NAMES)


@pytest.mark.parametrize("starts", [{"speed_up": 0}, {"speedup": 2}])
def test_a_speed_up_that_is_none_is_refused(starts):
    with pytest.raises(ConfigError, match=r"tercet:starts\.speed"):
        config_of(services={"noop": {"policy": "policies/noop.yaml"}}, starts=starts)
