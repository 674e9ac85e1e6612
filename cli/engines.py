"""Which engine servers `tercet up` uses: those it is told of, or its own."""

from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from localengine.servers import ServerCommand, local_engines
from orchestrator.policy import Policy
from stages.adapters.server import DRIVEN
from stages.types import Stage

EMBEDDINGS = "embeddings"
"""Folder of the state in which encode servers that are started here leave embeddings for prefill."""


def engines_of(text: str, policy: Policy) -> dict[Stage, tuple[str, ...]]:
    """Parse `encode=http://host:port,prefill=…`; a stage named twice has two replicas.

    Raises:
        ValueError: Names what is wrong; so is saying nothing of a stage whose engines are servers.
    """
    engine = policy.stages.encode.engine
    if text and not policy.served:
        raise ValueError(f"--engines: the engine {engine} is built in; leave --engines out")
    if policy.served and engine not in DRIVEN:
        raise ValueError(f"no worker drives the engine {engine} yet; try `tercet up --model tiny`")
    found: dict[Stage, tuple[str, ...]] = {}
    for part in filter(None, text.split(",")):
        stage, url = _address(part.strip())
        found[stage] = (*found.get(stage, ()), url)
    if missing := [stage for stage in policy.used_stages if policy.served and stage not in found]:
        told = f"give --engines {missing[0]}=http://HOST:PORT, or try `tercet up --model tiny`"
        raise ValueError(f"no server of the engine {engine} for {', '.join(missing)}; {told}")
    return found


def starts_engines(text: str, policy: Policy) -> bool:
    """Return whether `tercet up` starts the servers itself: none are named, and this machine can run them."""
    stages = [policy.stages[stage] for stage in Stage]
    return not text and all(stage.engine == "vllm" and stage.hardware[0] == "cpu" for stage in stages)


def own_servers(
    policy: Policy, replicas: Mapping[Stage, int], state: Path, say: Callable[[str], None]
) -> dict[Stage, tuple[ServerCommand, ...]]:
    """Return how to start the servers of a policy's stages, one a replica.

    Args:
        policy: Its engine is one that `starts_engines` allows.
        replicas: By stage.
        state: Folder of what this system leaves on the disk.
        say: Told when something is installed.

    Raises:
        EngineMissing: The engine cannot be had on this machine.
    """
    engines = local_engines(policy, state / EMBEDDINGS, say)
    return {stage: tuple(engines.stage(stage) for _ in range(count)) for stage, count in replicas.items()}


def _address(part: str) -> tuple[Stage, str]:
    name, _, url = part.partition("=")
    address = urlsplit(url)
    if name not in tuple(Stage) or address.scheme != "http" or not address.netloc or address.path.strip("/"):
        stages = ", ".join(Stage)
        raise ValueError(f"--engines: {part!r} is not STAGE=http://HOST:PORT with a stage of {stages}")
    return Stage(name), url.rstrip("/")
