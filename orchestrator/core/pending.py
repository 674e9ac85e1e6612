"""Replicas that should have started by now."""

from collections.abc import Iterable, Mapping

from orchestrator.core.changes import PlaceReason, Remove
from orchestrator.core.observed import PlacedReplica, ReplicaState
from orchestrator.core.planned import ControlPolicy


def stuck(replica: PlacedReplica, policy: ControlPolicy, now_s: float) -> bool:
    """Return whether a replica is pending or starting for longer than its policy allows, or has failed to."""
    late = now_s - replica.since_s > policy.pending_timeout_s
    return (late or replica.failed) and replica.state in (ReplicaState.PENDING, ReplicaState.STARTING)


def given_up(
    replicas: Iterable[PlacedReplica], policies: Mapping[str, ControlPolicy], now_s: float
) -> tuple[Remove, ...]:
    """Return the removals of stuck replicas that hold accelerators.

    The accelerators are free for others once the replica is gone, not before. A replica without a node
    holds none: it stays as the sign that it is wanted, for another would have no place either.
    """
    return tuple(
        Remove(
            replica_id=replica.replica_id,
            service=replica.service,
            stage=replica.stage,
            reason=PlaceReason.START_FAILED if replica.failed else PlaceReason.START_TIMED_OUT,
        )
        for replica in replicas
        if replica.node_id
        and replica.service in policies
        and stuck(replica, policies[replica.service], now_s)
    )
