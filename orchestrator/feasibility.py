"""What a policy asks for that its model on its hardware cannot do, with the numbers."""

from collections.abc import Iterator, Mapping

from orchestrator.core.capacity import USABLE_MEMORY, isolated_ttft_s, kv_capacity_tokens
from orchestrator.core.profile import Accelerator, HardwareClass, ModelProfile
from orchestrator.policy import Policy
from orchestrator.yaml_fields import InfeasibleError
from stages.types import Stage

TEXT_TOKENS = 1_024
"""Text of the request that checks think of, beside one image; Azure's traces have medians of 800 to 1,400."""


def infeasibilities(
    policy: Policy, profile: ModelProfile, accelerators: Mapping[str, Accelerator]
) -> Iterator[InfeasibleError]:
    """Yield what cannot be; the keys lead to the value in the policy file."""
    if policy.model.kappa != profile.kappa:
        message = f"{policy.model.kappa}, but the profile of {profile.model} has {profile.kappa}"
        yield InfeasibleError(message, "model", "kappa")
    yield from _role_switch(policy)
    unusable = [error for stage in Stage for error in _hardware(policy, profile, accelerators, stage)]
    yield from unusable
    if not unusable:
        yield from _pending_timeout(policy, profile)
        yield from _ttft(policy, profile)
        yield from _tpot(policy, profile)


def _hardware(
    policy: Policy, profile: ModelProfile, accelerators: Mapping[str, Accelerator], stage: Stage
) -> Iterator[InfeasibleError]:
    for at, where in enumerate(_classes(policy, stage)):
        message = _unusable(policy, profile, accelerators, stage, where)
        if message:
            yield InfeasibleError(message, "stages", stage.value, "hardware", at)


def _unusable(
    policy: Policy,
    profile: ModelProfile,
    accelerators: Mapping[str, Accelerator],
    stage: Stage,
    where: HardwareClass,
) -> str | None:
    """Return why a stage cannot run on a hardware class, None if it can."""
    if where.hardware not in accelerators:
        return f"{where.hardware} is not in data/accelerators.yaml: {', '.join(sorted(accelerators))}"
    usable = accelerators[where.hardware].memory_bytes * where.tp * USABLE_MEMORY
    weights = profile.weights_bytes[stage]
    if weights > usable:
        return f"weights of {_gb(weights)} do not fit the {_gb(usable)} usable of {_shown(where)}"
    if where not in profile.classes(stage):
        profiled = ", ".join(_shown(each) for each in sorted(profile.classes(stage)))
        return f"{profile.model} has no {stage.value} timing on {_shown(where)}; it has {profiled}"
    room = kv_capacity_tokens(profile, stage, where, accelerators)
    context = policy.model.max_context
    if stage is not Stage.ENCODE and context and room < context:
        return f"KV caches of {room} positions fit {_shown(where)}, fewer than max_context {context}"
    return None


def _ttft(policy: Policy, profile: ModelProfile) -> Iterator[InfeasibleError]:
    alone_s, encode, prefill = min(
        (
            isolated_ttft_s(profile, encode, prefill, images=1, text_tokens=TEXT_TOKENS, images_at_once=1),
            encode,
            prefill,
        )
        for encode in _classes(policy, Stage.ENCODE)
        for prefill in _classes(policy, Stage.PREFILL)
    )
    if policy.slo.ttft_s < alone_s:
        message = (
            f"{policy.slo.ttft_s:g} is below the {alone_s:.3g} s that one image and {TEXT_TOKENS} tokens of "
            f"text take alone, encoded on {_shown(encode)} and prefilled on {_shown(prefill)}"
        )
        yield InfeasibleError(message, "slo", "ttft_s")


def _tpot(policy: Policy, profile: ModelProfile) -> Iterator[InfeasibleError]:
    context = TEXT_TOKENS + int(profile.kappa * profile.image_tokens + profile.image_kv_positions)
    itl_s, where = min(
        (profile.decode[where].itl_s(1, context), where) for where in _classes(policy, Stage.DECODE)
    )
    if policy.slo.tpot_s < itl_s:
        message = (
            f"{policy.slo.tpot_s:g} is below the {itl_s:.3g} s that a token of a sequence alone with "
            f"{context} positions takes on {_shown(where)}"
        )
        yield InfeasibleError(message, "slo", "tpot_s")


def _pending_timeout(policy: Policy, profile: ModelProfile) -> Iterator[InfeasibleError]:
    start_s, stage = max((profile.cold_start[stage].lead_s(node_free=False), stage) for stage in Stage)
    if policy.scaling.pending_timeout_s <= start_s:
        timeout_s = policy.scaling.pending_timeout_s
        message = f"{timeout_s:g} is not above the {start_s:g} s that {stage.value} may take to start"
        yield InfeasibleError(message, "scaling", "pending_timeout_s")


def _role_switch(policy: Policy) -> Iterator[InfeasibleError]:
    engines = sorted({policy.stages[stage].engine for stage in (Stage.PREFILL, Stage.DECODE)})
    if getattr(policy.scaling.params, "role_switch", False) and engines != ["sglang"]:
        message = f"a replica of {' or '.join(engines)} keeps its role; one of sglang can"
        yield InfeasibleError(message, "scaling", "params", "role_switch")


def _classes(policy: Policy, stage: Stage) -> list[HardwareClass]:
    of_stage = policy.stages[stage]
    return [HardwareClass(hardware, of_stage.tp) for hardware in of_stage.hardware]


def _shown(where: HardwareClass) -> str:
    return f"{where.tp} × {where.hardware}"


def _gb(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:.1f} GB"
