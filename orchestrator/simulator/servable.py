"""Which requests could be served at all: those that fit into the context and into one replica's KV cache."""

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.admission import fits_context
from orchestrator.core.kv import kv_sizes
from orchestrator.core.planned import ControlPolicy
from orchestrator.core.profile import HardwareClass
from orchestrator.core.types import Reason
from orchestrator.simulator.build import ReplicaShape
from orchestrator.simulator.systems import System
from orchestrator.simulator.traces import Notes
from orchestrator.simulator.work import work_from_rows
from orchestrator.simulator.workload import Workload
from stages.types import Stage

Classes = Mapping[Stage, Collection[HardwareClass]]
"""Where replicas of each stage may be."""


def named_classes(control: ControlPolicy, there: Collection[str] | None = None) -> Classes:
    """Return the hardware that a policy names, as far as it is there; None for all of it."""
    return {
        stage: [HardwareClass(name, bounds.tp) for name in bounds.hardware if there is None or name in there]
        for stage, bounds in control.stages.items()
    }


def servable(
    control: ControlPolicy, work: Workload, system: System, classes: Classes | None = None
) -> NDArray[np.bool_]:
    """Return whether each request fits into the context and an empty replica of every pool that it visits.

    One that is too large for a replica would wait for room until its deadline, and hold up all behind it.

    Args:
        control: The service.
        work: Its requests.
        system: How it is laid out.
        classes: Of its replicas; None for all that the policy names.

    Returns:
        bool [requests].
    """
    return in_context(control, work) & _in_replicas(control, work, system, classes)


def in_context(control: ControlPolicy, work: Workload) -> NDArray[np.bool_]:
    """Return whether each request fits into the service's `max_context`; bool [requests]."""
    if control.max_context is None:
        return np.ones(len(work), np.bool_)
    asked = work_from_rows(work, control.profile)
    prompts = asked.text_tokens + asked.image_tokens
    pairs = zip(prompts.tolist(), work.output_tokens.tolist(), strict=True)
    return np.array([fits_context(prompt, said, control.max_context) for prompt, said in pairs], np.bool_)


def _in_replicas(
    control: ControlPolicy, work: Workload, system: System, classes: Classes | None
) -> NDArray[np.bool_]:
    where = named_classes(control) if classes is None else classes
    prompt, whole = _held_bytes(control, work)
    fits = np.ones(len(work), np.bool_)
    for stages in system.pools:
        if stages != (Stage.ENCODE,):
            shape = ReplicaShape(stages=stages, system=system, policy=control)
            # Replicas of several stages go by the first; the others' hardware may stand in the policy only.
            most = max([shape.kv_bytes(each) for stage in stages for each in where[stage]], default=0)
            fits &= (whole if Stage.DECODE in stages else prompt) <= most
    return fits


def served(control: ControlPolicy, work: Workload, system: System) -> Workload:
    """Return the requests that are `servable`."""
    fits = servable(control, work, system)
    return work if fits.all() else work.where(fits)


def refusal_notes(control: ControlPolicy, work: Workload, fits: NDArray[np.bool_]) -> Notes:
    """Return what people should know of requests that can never be served; nothing if all can.

    Args:
        control: The service.
        work: Its requests.
        fits: What `servable` says of them.
    """
    short = in_context(control, work)
    context = f"the {control.max_context} positions of max_context"
    return (
        *_note(Reason.CONTEXT_LENGTH_EXCEEDED, work, ~short, context),
        *_note(Reason.TOO_LARGE, work, short & ~fits, "the KV cache of any replica"),
    )


def _note(reason: Reason, work: Workload, refused: NDArray[np.bool_], limit: str) -> Notes:
    at = np.flatnonzero(refused)
    if not len(at):
        return ()
    first = int(at[0])
    return (
        f"{len(at):,} requests are refused as {reason}, more than {limit}: the first, "
        f"at {work.arrival_s[first]:,.1f} s, has {work.images[first]:,} images, "
        f"{work.context_tokens[first]:,} context and {work.output_tokens[first]:,} output tokens",
    )


def _held_bytes(control: ControlPolicy, work: Workload) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return what prompts hold, and prompts with their completions; see `core.kv.kv_bytes`."""
    profile, asked = control.profile, work_from_rows(work, control.profile)
    sizes = kv_sizes(profile.kappa, profile.kv_bytes_per_token, profile)
    crossed = asked.image_tokens * sizes.crossed_bytes // sizes.crossed_tokens
    prompt = asked.prompt_tokens * sizes.token_bytes + crossed
    return prompt, prompt + work.output_tokens.astype(np.int64) * sizes.token_bytes
