"""KV caches between prefill and decode: a prefill replica holds one until a decode replica has pulled it."""

from orchestrator.simulator.hop import Hop, Request
from orchestrator.simulator.replica import SimReplica


class Handover:
    """The KV caches of one service that decode has still to pull."""

    def __init__(self) -> None:
        self._held: dict[Request, tuple[SimReplica, Hop]] = {}

    def hold(self, request: Request, replica: SimReplica, hop: Hop) -> None:
        """A prefill replica holds what its hop has made."""
        self._held[request] = replica, hop

    def source(self, request: Request) -> SimReplica | None:
        """Return the replica that holds a request's KV cache, None if there is none to pull."""
        held = self._held.get(request)
        return held[0] if held else None

    def source_domain(self, hop: Hop) -> tuple[str, ...]:
        """Return the domain that a hop's KV cache is in; empty if it has none to pull."""
        held = self._held.get(hop.request)
        return held[0].domain if held else ()

    def forget(self, request: Request) -> None:
        """What a replica held of a request is lost with it."""
        self._held.pop(request, None)

    def free(self, request: Request) -> SimReplica | None:
        """Free what is pulled or wanted no more; return the replica that held it, None if none did."""
        held = self._held.pop(request, None)
        if held is None:
            return None
        replica, hop = held
        replica.free_kv(hop)
        return replica
