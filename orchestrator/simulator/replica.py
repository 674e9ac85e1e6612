"""One simulated replica: the router's view of it, its engine, and its place in the cluster."""

import math
from collections.abc import Callable

from orchestrator.core.observed import PlacedReplica, ReplicaState
from orchestrator.simulator.engine import Engine
from orchestrator.simulator.hop import Hop
from stages.types import Stage


class SimReplica:
    """A replica, from its creation to its end; it is a `ReplicaView`.

    Args:
        engine: Makes its engine, which tells of the hops on this replica.

    Attributes:
        stage: The first stage of its pool.
        draining: Whether it takes no work: not yet, or no more.
        running: Hops that hold a credit on it, in the order that they came.
        taken: Hops that it was ever given.
        decoding_tokens: The part of `pending_tokens` that decodes, where prefill and decode are one.
        created_s: When its accelerators were taken.
        becomes: The stage of which it will be one when it is empty; None if it will not switch.
    """

    __slots__ = (
        "becomes",
        "created_s",
        "decoding_tokens",
        "domain",
        "draining",
        "engine",
        "free_kv_bytes",
        "group",
        "hardware",
        "in_flight",
        "model",
        "node_id",
        "pending_tokens",
        "replica_id",
        "running",
        "service",
        "since_s",
        "slots",
        "stage",
        "state",
        "taken",
        "total_kv_bytes",
        "tp",
    )

    quarantined = False
    prompts_s = 0.0
    spare_s = math.inf

    def __init__(
        self,
        replica_id: str,
        service: str,
        model: str,
        stage: Stage,
        *,
        engine: Callable[["SimReplica"], Engine],
        hardware: str,
        tp: int,
        node_id: str,
        domain: tuple[str, ...],
        group: str,
        slots: int,
        total_kv_bytes: int,
        now_s: float,
    ) -> None:
        self.replica_id = replica_id
        self.service = service
        self.model = model
        self.stage = stage
        self.hardware = hardware
        self.tp = tp
        self.node_id = node_id
        self.domain = domain
        self.group = group
        self.slots = slots
        self.in_flight = 0
        self.pending_tokens = 0
        self.decoding_tokens = 0
        self.free_kv_bytes = total_kv_bytes
        self.total_kv_bytes = total_kv_bytes
        self.running: dict[Hop, None] = {}
        self.taken = 0
        self.created_s = now_s
        self.becomes: Stage | None = None
        self.enter(ReplicaState.STARTING, now_s)
        self.engine = engine(self)

    @property
    def empty(self) -> bool:
        """Whether it has no work, and no KV cache that decode has still to pull."""
        return not self.in_flight and self.free_kv_bytes == self.total_kv_bytes

    def enter(self, state: ReplicaState, now_s: float) -> None:
        """Come into a state."""
        self.state = state
        self.draining = state is not ReplicaState.READY
        self.since_s = now_s

    def take(self, hop: Hop) -> None:
        """Reserve a slot, and KV for the hop's whole life."""
        self.running[hop] = None
        self.taken += 1
        self.in_flight += 1
        self.pending_tokens += hop.tokens
        self.free_kv_bytes -= hop.kv_bytes

    def give_back(self, hop: Hop) -> None:
        """Free the slot; the KV stays until `free_kv`."""
        self.running.pop(hop, None)
        self.in_flight -= 1
        self.pending_tokens -= hop.tokens
        if hop.decoding:
            self.decoding_tokens -= hop.tokens

    def prefilled(self, hop: Hop, rest_tokens: int) -> None:
        """Know that only so much of a hop's work is left, and that it decodes: it is not ahead of prompts."""
        self.pending_tokens -= hop.tokens - rest_tokens
        self.decoding_tokens += rest_tokens
        hop.tokens, hop.decoding = rest_tokens, True

    def free_kv(self, hop: Hop) -> None:
        """Free the KV that the hop held."""
        self.free_kv_bytes += hop.kv_bytes

    def placed(self) -> PlacedReplica:
        """Return it as control sees it."""
        return PlacedReplica(
            replica_id=self.replica_id,
            service=self.service,
            stage=self.becomes or self.stage,
            hardware=self.hardware,
            tp=self.tp,
            node_id=self.node_id,
            group=self.group,
            state=ReplicaState.STARTING if self.becomes else self.state,
            since_s=self.since_s,
            pending_units=float(self.pending_tokens),
        )
