"""The gateway's view of the replicas: the last snapshot, kept current with its own dispatches in between."""

import time
from dataclasses import replace

from orchestrator.core.admission import stage_load
from orchestrator.core.types import Replica, StageLoad
from orchestrator.ports import DispatchOrder, Snapshot
from orchestrator.unsplit import Unsplit
from stages.types import Stage


class Registry:
    """Replicas by stage, as of the last refresh and what this gateway did since.

    Attributes:
        snapshot: Of the last refresh.
        unsplit: What is known of replicas that prefill and decode.
    """

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway
        self._replicas: dict[str, Replica] = {}
        self._others_waiting: dict[Stage, int] = {}
        self._rates: dict[Stage, float] = {}
        self.snapshot = Snapshot()
        self.unsplit = Unsplit()

    def refresh(self, snapshot: Snapshot) -> None:
        """Replace the view."""
        self.snapshot = snapshot
        self._replicas = {entry.replica.replica_id: entry.replica for entry in snapshot.replicas}
        others = [report for id_, report in snapshot.gateways.items() if id_ != self._gateway]
        self._others_waiting = {
            stage: sum(report.get("waiting_tokens", {}).get(stage, 0) for report in others) for stage in Stage
        }
        for stage in Stage:
            # A stage whose replicas all restarted is about as fast as it was.
            known = [r.rate_tokens_per_s for r in self.replicas(stage) if r.rate_tokens_per_s]
            if known:
                self._rates[stage] = sum(known) / len(known)

    def replicas(self, stage: Stage) -> list[Replica]:
        """Return the live replicas of a stage."""
        return [replica for replica in self._replicas.values() if replica.stage == stage]

    def get(self, replica_id: str) -> Replica | None:
        """Return a replica, or None if it is not live."""
        return self._replicas.get(replica_id)

    def took(self, order: DispatchOrder) -> None:
        """Count work that was just dispatched to a replica."""
        self._shift(order.replica_id, 1, order.tokens, order.kv_bytes)

    def gave_back(self, order: DispatchOrder) -> None:
        """Count work that a replica has just finished."""
        self._shift(order.replica_id, -1, -order.tokens, -order.kv_bytes)
        self.unsplit.gone(order.replica_id, order.job.key, time.monotonic())

    def mark(self, replica_id: str, **changes: bool | int) -> None:
        """Correct what a refused dispatch has shown to be out of date."""
        replica = self._replicas.get(replica_id)
        if replica:
            self._replicas[replica_id] = replace(replica, **changes)  # type: ignore[arg-type]

    def drop(self, replica_id: str) -> None:
        """Forget a replica that turned out to be gone."""
        self._replicas.pop(replica_id, None)

    def load(self, stage: Stage, waiting_tokens: int) -> StageLoad:
        """Return the stage's load over all gateways; `waiting_tokens` is what waits in this one."""
        return stage_load(
            stage,
            self.replicas(stage),
            waiting_tokens + self._others_waiting.get(stage, 0),
            self._rates.get(stage, 0.0),
        )

    def _shift(self, replica_id: str, jobs: int, tokens: int, kv_bytes: int) -> None:
        replica = self._replicas.get(replica_id)
        if replica:
            self._replicas[replica_id] = replace(
                replica,
                in_flight=max(0, replica.in_flight + jobs),
                pending_tokens=max(0, replica.pending_tokens + tokens),
                free_kv_bytes=min(replica.total_kv_bytes, replica.free_kv_bytes - kv_bytes),
            )
