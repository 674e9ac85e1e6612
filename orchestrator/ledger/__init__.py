"""The ledger: who works on what, kept in Redis by atomic scripts.

Each script is one Lua file; `common.lua` names the keys. The gateway calls them through redis.asyncio
(`orchestrator.adapters.redis`), workers through the blocking client (`workers.ledger`); both load them here.
"""

from functools import cache
from importlib import resources

PREFIX = "tercet:"
EXIT_FENCED = 75
"""Exit code of a gateway or worker that lost its lease: somebody else may hold its work now."""
LEASE_S = 2.5
"""A replica or gateway that has not renewed its lease for this long is fenced. Renewed every `RENEW_S`."""
LEASE_MS = round(LEASE_S * 1000)
"""The same, as the scripts take it."""
RENEW_S = 0.5
FULL_USAGE = 0.75
"""Fraction of Redis's memory above which gateways refuse new requests. The rest is for what they let in: a
Redis that is full refuses writes, and with them leases and the tokens of running requests."""


@cache
def script(name: str) -> str:
    """Return the source of a ledger script, `common.lua` included."""
    here = resources.files(__package__)
    return f"{here.joinpath('common.lua').read_text()}\n{here.joinpath(f'{name}.lua').read_text()}"


def control_key(replica_id: str) -> str:
    """List on which a replica is told to cancel, pause or resume work."""
    return f"{PREFIX}control:{replica_id}"


def credits_key(replica_id: str) -> str:
    """Hash of the jobs dispatched to a replica and not yet ended."""
    return f"{PREFIX}credits:{replica_id}"


def request_key(request_id: str) -> str:
    """Hash of a request's hops: hop → `<attempt>|<replica>`."""
    return f"{PREFIX}request:{request_id}"


def replies_key(gateway_id: str) -> str:
    """Stream on which a gateway hears of its requests."""
    return f"{PREFIX}replies:{gateway_id}"


def policy_key(service: str) -> str:
    """Hash of a service's published policy: `era` and `revision`, which only grow, and `files`."""
    return f"{PREFIX}policy:{service}"


def queue_name(stage: str, replica_id: str) -> str:
    """Celery queue of one replica epoch."""
    return f"{stage}.{replica_id}"
