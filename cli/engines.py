"""Which engine servers `tercet up` is told to use."""

from urllib.parse import urlsplit

from orchestrator.policy import Policy
from stages.types import Stage

DRIVEN = ("vllm",)
"""Engine servers that have an adapter."""


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
    if missing := [stage for stage in Stage if policy.served and stage not in found]:
        told = f"give --engines {missing[0]}=http://HOST:PORT, or try `tercet up --model tiny`"
        raise ValueError(f"no server of the engine {engine} for {', '.join(missing)}; {told}")
    return found


def _address(part: str) -> tuple[Stage, str]:
    name, _, url = part.partition("=")
    address = urlsplit(url)
    if name not in tuple(Stage) or address.scheme != "http" or not address.netloc or address.path.strip("/"):
        stages = ", ".join(Stage)
        raise ValueError(f"--engines: {part!r} is not STAGE=http://HOST:PORT with a stage of {stages}")
    return Stage(name), url.rstrip("/")
