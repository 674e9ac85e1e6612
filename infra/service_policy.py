"""The policy file of a service, as a stack and a federation read it."""

from pathlib import Path

from infra.config import ConfigError
from orchestrator.policy import Policy, PolicyError, load_policy


def read_policy(key: str, service: str, file: Path) -> tuple[Policy, str]:
    """Return a policy and the text of the profile that it names, empty if it names none.

    Args:
        key: Of the configuration, which messages name.
        service: Which the policy has to be of.
        file: It.

    Raises:
        ConfigError: It cannot be used, or is of another service.
    """
    try:
        policy = load_policy(file)
    except PolicyError as error:
        raise ConfigError(f"`{key}`: {error}") from error
    if policy.service != service:
        raise ConfigError(f"`{key}`: the policy is of `{policy.service}`; name the service so")
    profile = policy.model.profile
    return policy, (file.parent / profile).read_text() if profile else ""
