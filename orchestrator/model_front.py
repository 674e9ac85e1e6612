"""What a gateway knows of the model of a policy."""

from pathlib import Path

from orchestrator.control_policy import Hardware, known_profile
from orchestrator.policy import Policy
from stages.adapters.front import ServedFront
from stages.front import TextFront
from stages.models import front
from stages.types import Modality

_IMAGE_TOKENS = 576
"""Of LLaVA's 336-pixel images; for models of which nothing is known."""
_UNBOUNDED = 1 << 20


def model_front(policy: Policy, path: Path | str) -> TextFront | ServedFront:
    """Return the front of a policy's model.

    Args:
        policy: As its file has it.
        path: Where that is; the profile that it names is beside it.

    Raises:
        KeyError: The engines are built in, but the model is not.
    """
    if not policy.served:
        return front(policy.model.name)
    profile = known_profile(policy, path, Hardware.load().accelerators)
    return ServedFront(
        name=policy.model.name,
        modalities=frozenset({Modality.TEXT, *policy.model.modalities}),
        max_context=policy.model.max_context or _UNBOUNDED,
        # KV caches of a model of which nothing is known are counted in positions.
        kv_bytes_per_token=profile.kv_bytes_per_token if profile else 1,
        image_tokens=profile.image_tokens if profile else _IMAGE_TOKENS,
    )
