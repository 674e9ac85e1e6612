"""A policy file, its model's profile and facts of the hardware, made into what control decides with."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.image_size import for_images
from orchestrator.core.kv import kv_bytes, kv_sizes
from orchestrator.core.links import required_level
from orchestrator.core.planned import ControlPolicy, EdgeLevels, StageBounds
from orchestrator.core.profile import Accelerator, ModelProfile
from orchestrator.core.tagger import tag
from orchestrator.core.types import MediaShape
from orchestrator.feasibility import TEXT_TOKENS, infeasibilities
from orchestrator.policy import Edge, Policy, load_policy
from orchestrator.profiles import (
    Links,
    NoProfileError,
    find_profile,
    load_accelerators,
    load_links,
    load_profile,
)
from orchestrator.yaml_fields import InfeasibleError
from orchestrator.yaml_file import FileError
from stages.types import Modality, Stage

TRANSFER_SHARE = 0.1
"""Part of the time to first token that one transfer between stages may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """Facts of the hardware that services may run on."""

    accelerators: Mapping[str, Accelerator]
    links: Links

    @classmethod
    def load(cls) -> "Hardware":
        """Return what `data/` has.

        Raises:
            FileError: One of the files is wrong.
        """
        return cls(accelerators=load_accelerators(), links=load_links())


def load_control_policy(
    path: Path | str, hardware: Hardware | None = None, *, image_px: int | None = None
) -> ControlPolicy:
    """Return what control needs of a policy file.

    Args:
        path: Where it is.
        hardware: What it may run on; by default what `data/` has.
        image_px: Width and height of images; None for the size that the profile is for.

    Raises:
        PolicyError: The file is wrong, its model has no profile, or it asks for what cannot be.
        FileError: A data file is wrong.
        ImageSizeError: The profile says nothing of images of that size.
    """
    hardware = hardware or Hardware.load()
    policy = load_policy(
        path, lambda policy: refusals(policy, path, hardware, must_be_known=True, image_px=image_px)
    )
    profile = policy_profile(policy, path, hardware.accelerators, image_px)
    return control_policy(policy, profile, hardware.accelerators, hardware.links)


def policy_profile(
    policy: Policy,
    path: Path | str,
    accelerators: Mapping[str, Accelerator],
    image_px: int | None = None,
) -> ModelProfile:
    """Return the profile that a policy file names, or else the one that its model's name finds.

    Raises:
        NoProfileError: There is none of that name.
        FileError: The profile is wrong.
        ImageSizeError: It says nothing of images of `image_px`; None stands for its own size.
    """
    if policy.model.profile:
        profile = load_profile(Path(path).parent / policy.model.profile, accelerators)
    else:
        profile = find_profile(policy.model.name, accelerators)
    return profile if image_px is None else for_images(profile, image_px)


def known_profile(
    policy: Policy, path: Path | str, accelerators: Mapping[str, Accelerator]
) -> ModelProfile | None:
    """Return the profile of a policy's model, None if there is none that can be read."""
    try:
        return policy_profile(policy, path, accelerators)
    except (NoProfileError, FileError):
        return None


def refusals(
    policy: Policy,
    path: Path | str,
    hardware: Hardware,
    *,
    must_be_known: bool = False,
    image_px: int | None = None,
) -> Iterator[InfeasibleError]:
    """Yield what a policy asks for in vain, as far as its model is known.

    Args:
        policy: As its file has it.
        path: Where that is.
        hardware: What it may run on.
        must_be_known: Whether it is wrong for a model to have no profile.
        image_px: See `load_control_policy`.
    """
    try:
        profile = policy_profile(policy, path, hardware.accelerators, image_px)
    except NoProfileError as error:
        if must_be_known:
            yield InfeasibleError(str(error), "model", "name")
        return
    yield from infeasibilities(policy, profile, hardware.accelerators)


def control_policy(
    policy: Policy, profile: ModelProfile, accelerators: Mapping[str, Accelerator], links: Links
) -> ControlPolicy:
    """Return what control needs of a policy; it is taken to be feasible."""
    return ControlPolicy(
        service=policy.service,
        kappa=policy.model.kappa,
        scaling=policy.scaling.policy,
        params=policy.scaling.params,
        stages={stage: _bounds(policy, profile, stage) for stage in Stage},
        ttft_s=policy.slo.ttft_s,
        tpot_s=policy.slo.tpot_s,
        attainment=policy.slo.attainment,
        max_context=policy.model.max_context,
        budget=policy.scaling.budget,
        queue_s=policy.admission.queue_s,
        pending_timeout_s=policy.scaling.pending_timeout_s,
        levels=policy.topology.levels,
        edges=edge_levels(policy, profile, links),
        profile=profile,
        accelerators=accelerators,
    )


def _bounds(policy: Policy, profile: ModelProfile, stage: Stage) -> StageBounds:
    of_stage, used = policy.stages[stage], stage in policy.used_stages
    return StageBounds(
        hardware=of_stage.hardware,
        tp=of_stage.tp,
        min=of_stage.min if used else 0,
        max=of_stage.max if used else 0,
        slots=of_stage.batch,
        budget_s=of_stage.budget_s,
        lead_s=profile.cold_start[stage].lead_s(node_free=False),
    )


def edge_levels(policy: Policy, profile: ModelProfile | None, links: Links) -> EdgeLevels:
    """Return the levels that the file names, and for `auto` those that a request's bytes call for.

    Where no level is near enough, the nearest has to do; a topology of no levels asks for nothing. A model
    without a profile gets none for encode to prefill (tens of megabytes an image) and every level for
    prefill to decode (hundreds of megabytes a request).
    """
    topology = policy.topology
    of_levels = links.of_levels(topology.levels)
    budget_s = TRANSFER_SHARE * policy.slo.ttft_s

    def level(edge: Edge, size_bytes: int | None, if_unknown: int) -> int:
        named = topology.edges[edge]
        if named != "auto":
            return topology.levels.index(named) + 1 if named in topology.levels else 0
        if size_bytes is None:
            return if_unknown
        required = required_level(size_bytes, of_levels, budget_s)
        return len(topology.levels) if required is None else required

    return EdgeLevels(
        encode_prefill=level("encode-prefill", profile.embedding_bytes if profile else None, 0),
        prefill_decode=level("prefill-decode", _kv_bytes(profile) if profile else None, len(topology.levels)),
    )


def _kv_bytes(profile: ModelProfile) -> int:
    """Return what a prompt of one image and the usual text leaves for decode."""
    image = MediaShape(modality=Modality.IMAGE, tokens=profile.image_tokens)
    usual = tag(TEXT_TOKENS, [image], kappa=profile.kappa, max_tokens=1)
    return kv_bytes(usual, kv_sizes(profile.kappa, profile.kv_bytes_per_token, profile), 0)
