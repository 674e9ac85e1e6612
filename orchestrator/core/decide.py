"""decide(): the whole control path in one pure function, run live, in shadow and in the simulator."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from orchestrator.core.autoscaler import plan
from orchestrator.core.changes import Changes, Remove
from orchestrator.core.observed import Node, PlacedReplica, Signals, Snapshot
from orchestrator.core.orders import Site, is_order, shun, shunning
from orchestrator.core.pending import given_up
from orchestrator.core.planned import ControlPolicy, ScalePlan, ScalerState
from orchestrator.core.scheduler import Placement, apply, diff, place
from orchestrator.core.signals import SignalState, summarize


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceState:
    """What is remembered of one service from one decision to the next.

    Attributes:
        shunned: Where orders have come to nothing, and until when no more are placed there.
    """

    signals: SignalState = field(default_factory=SignalState)
    scaler: ScalerState = field(default_factory=ScalerState)
    shunned: Mapping[Site, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do, and why.

    Attributes:
        signals: What each service's policy saw.
        plans: How many replicas each stage should have, each count with its reason.
        placement: Where they go.
        changes: What has to be done to the cluster.
        state: To be handed to the next decision.
    """

    signals: Mapping[str, Signals]
    plans: Mapping[str, ScalePlan]
    placement: Placement
    changes: Changes
    state: Mapping[str, ServiceState]


def decide(
    snapshot: Snapshot,
    policies: Mapping[str, ControlPolicy],
    state: Mapping[str, ServiceState],
    now_s: float,
) -> Decision:
    """Return the decision for all services of a fleet: summarize → plan → place → diff.

    Safe to repeat: from the same arguments comes the same decision, and a snapshot in which its changes
    have been made calls for no more. Replicas that should have started by now are given up first, and
    all else is decided as if they drained: they do not count, and others take their place elsewhere.

    Args:
        snapshot: What is.
        policies: By service. Replicas of other services are left alone, and keep their accelerators.
        state: What the last decision returned; empty at first.
        now_s: On the clock of the samples.
    """
    overdue = given_up(snapshot.replicas, policies, now_s)
    failed = _failed_orders(overdue, snapshot)
    snapshot = apply(Changes(remove=overdue), snapshot) if overdue else snapshot
    own: defaultdict[str, list[PlacedReplica]] = defaultdict(list)
    for replica in snapshot.replicas:
        own[replica.service].append(replica)
    signals: dict[str, Signals] = {}
    plans: dict[str, ScalePlan] = {}
    states: dict[str, ServiceState] = {}
    for name in sorted(policies):
        policy, before = policies[name], state.get(name, ServiceState())
        signals[name], memory = summarize(
            snapshot.services.get(name), own[name], policy, before.signals, now_s
        )
        plans[name], scaler = plan(signals[name], policy, before.scaler, now_s)
        shunned = shun(before.shunned, failed.get(name, ()), now_s, policy.pending_timeout_s)
        states[name] = ServiceState(signals=memory, scaler=scaler, shunned=shunned)
    sites = {site for each in states.values() for site in each.shunned}
    useless = {node.node_id for nodes in failed.values() for node in nodes}
    placement = place(plans, policies, shunning(snapshot, sites, useless))
    changes = diff(placement, snapshot)
    return Decision(
        signals=signals,
        plans=plans,
        placement=placement,
        changes=replace(changes, remove=(*overdue, *changes.remove)) if overdue else changes,
        state=states,
    )


def _failed_orders(overdue: Iterable[Remove], snapshot: Snapshot) -> Mapping[str, list[Node]]:
    """Return the orders that nodes were not made for in time, by service."""
    if not overdue:
        return {}
    nodes = {node.node_id: node for node in snapshot.nodes if is_order(node.node_id)}
    place_of = {replica.replica_id: replica.node_id for replica in snapshot.replicas}
    failed: defaultdict[str, list[Node]] = defaultdict(list)
    for remove in overdue:
        if order := nodes.get(place_of[remove.replica_id]):
            failed[remove.service].append(order)
    return failed
