"""Which engine servers `tercet up` is told to use."""

from urllib.parse import urlsplit

from orchestrator.policy import Policy
from stages.types import Stage


def engines_of(text: str, policy: Policy) -> dict[Stage, tuple[str, ...]]:
    """Parse `encode=http://host:port,prefill=…`; a stage named twice has two replicas.

    Raises:
        ValueError: Names what is wrong; so is saying nothing of a stage whose engines are servers.
    """
    found: dict[Stage, tuple[str, ...]] = {}
    for part in filter(None, text.split(",")):
        name, _, url = part.strip().partition("=")
        address = urlsplit(url)
        if (
            name not in tuple(Stage)
            or address.scheme != "http"
            or not address.netloc
            or address.path.strip("/")
        ):
            stages = ", ".join(Stage)
            raise ValueError(f"--engines: {part!r} is not STAGE=http://HOST:PORT with a stage of {stages}")
        found[Stage(name)] = (*found.get(Stage(name), ()), url.rstrip("/"))
    if text and not policy.served:
        raise ValueError(
            f"--engines: the engine {policy.stages.encode.engine} is built in; leave --engines out"
        )
    if missing := [stage for stage in Stage if policy.served and stage not in found]:
        raise ValueError(
            f"--engines: no server for {', '.join(missing)}; write {missing[0]}=http://HOST:PORT"
        )
    return found
