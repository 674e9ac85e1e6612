"""Scenarios of a service as `tercet up` runs it: fixed counts of replicas on one machine."""

from collections.abc import Mapping, Sequence

import numpy as np

from orchestrator.control_policy import Hardware, control_policy
from orchestrator.core.profile import ModelProfile
from orchestrator.core.scaling.static import StaticParams
from orchestrator.policy import Policy
from orchestrator.profiles.pressure import Row
from orchestrator.simulator.fleet_spec import default_fleet
from orchestrator.simulator.run import Scenario
from orchestrator.simulator.scenario import Subject
from orchestrator.simulator.workload import TRACED_IMAGE_TOKENS, Workload
from stages.types import Stage


def on_one_host(
    policy: Policy,
    profile: ModelProfile,
    replicas: Mapping[Stage, int],
    work: Workload,
    hardware: Hardware,
    *,
    seed: int = 0,
) -> Scenario:
    """Return the scenario of a workload on so many replicas."""
    control = control_policy(policy, profile, hardware.accelerators, hardware.links)
    subject = Subject(
        policy=policy,
        control=control,
        workload=work,
        nodes=default_fleet([control], control.levels),
        hardware=hardware,
    )
    encode, prefill, decode = (replicas[stage] for stage in Stage)
    counts = StaticParams(encode=encode, prefill=prefill, decode=decode)
    return subject.scenario(scaling="static", params=counts, seed=seed)


def workload_of(name: str, rows: Sequence[Row], arrival_s: Sequence[float], *, image_tokens: int) -> Workload:
    """Return requests that were measured as a workload; no image comes twice.

    Args:
        name: What to call it.
        rows: The requests, in the order of their arrivals.
        arrival_s: Of each, from 0.
        image_tokens: What the model makes of an image; a trace counts `TRACED_IMAGE_TOKENS` instead.
    """
    images, prompts, outputs = (np.array(column, np.int32) for column in zip(*rows, strict=True))
    return Workload(
        name=name,
        label="as sent to a live system",
        arrival_s=np.array(arrival_s, np.float64),
        images=images,
        context_tokens=prompts + images * np.int32(TRACED_IMAGE_TOKENS - image_tokens),
        output_tokens=np.maximum(outputs, 1),
        span_s=float(arrival_s[-1]),
        content_ids=np.arange(len(rows)),
    )
