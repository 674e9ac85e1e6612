"""decide(): starts that never end, and gateways that die between two decisions."""

from dataclasses import replace

import pytest

from orchestrator.core.changes import Changes, PlaceReason
from orchestrator.core.counts import GONE_S
from orchestrator.core.decide import decide
from orchestrator.core.observed import ReplicaState, Snapshot
from orchestrator.core.placement import apply
from orchestrator.core.planned import PENDING_TIMEOUT_S, ScaleReason
from orchestrator.core.scaling.coupled_params import CoupledParams
from orchestrator.core.scaling.static import StaticParams
from orchestrator.core.signals import STALE_S
from orchestrator.totals import ServiceTotals
from stages.types import Stage
from tests.fakes.looks import Looks, reading
from tests.orchestrator.core.fleets import D, E, P, node, policy, replica
from tests.orchestrator.core.test_observe import BUDGETS, offer

LATE_S = PENDING_TIMEOUT_S + 1.0
ONE_EACH = StaticParams(encode=1, prefill=1, decode=1)


def static(**options):
    return {"s": replace(policy(**options), params=ONE_EACH)}


def snapshot(*decodes, nodes=None):
    """Return one encode, one prefill and the decodes, on eight accelerators unless said otherwise."""
    others = (replica("e", E, "n"), replica("p", P, "n"))
    return Snapshot(
        services={"s": None}, replicas=(*others, *decodes), nodes=nodes or (node("n", accelerators=8),)
    )


@pytest.mark.parametrize("state", [ReplicaState.PENDING, ReplicaState.STARTING])
def test_a_start_that_times_out_is_given_up_and_made_again(state):
    """Up to the time-out it counts; after it another takes its place, and there the matter ends."""
    stuck = replica("d", D, "n", state=state, since_s=0.0)
    in_time = decide(snapshot(stuck), static(), {}, PENDING_TIMEOUT_S)
    assert in_time.changes == Changes()
    assert in_time.signals["s"].stages[D].coming == 1
    late = decide(snapshot(stuck), static(), {}, LATE_S)
    assert [(r.replica_id, r.reason) for r in late.changes.remove] == [("d", PlaceReason.START_TIMED_OUT)]
    assert [(c.stage, c.node_id) for c in late.changes.create] == [(D, "n")]
    assert late.signals["s"].stages[D].coming == 0
    after = apply(late.changes, snapshot(stuck), LATE_S)
    assert decide(after, static(), late.state, LATE_S + 5.0).changes == Changes()


def test_a_stage_that_no_request_passes_gets_no_replica():
    """Decode prefills: it is placed without a group of prefill beside it, on static counts."""
    service = policy()
    bounds = replace(service.stages[P], min=0, max=0)
    service = replace(service, params=ONE_EACH, stages={**service.stages, P: bounds})
    empty = Snapshot(services={"s": None}, replicas=(), nodes=(node("n", accelerators=8),))
    created = decide(empty, {"s": service}, {}, 0.0).changes.create
    assert {each.stage: each.node_id for each in created} == {E: "n", D: "n"}


@pytest.mark.parametrize("state", [ReplicaState.READY, ReplicaState.DRAINING])
def test_only_starts_time_out(state):
    old = replica("d", D, "n", state=state, since_s=0.0)
    changes = decide(snapshot(old), static(), {}, LATE_S).changes
    assert changes.remove == ()
    assert len(changes.create) == (state is ReplicaState.DRAINING)


@pytest.mark.parametrize(
    ("nodes", "options"),
    [
        pytest.param((node("n", accelerators=3),), {}, id="no-room"),
        pytest.param((node("n", accelerators=8),), {"budget": 3}, id="no-budget"),
    ],
)
def test_what_was_given_up_keeps_its_accelerators_until_it_is_gone(nodes, options):
    stuck = replica("d", D, "n", state=ReplicaState.STARTING)
    late = decide(snapshot(stuck, nodes=nodes), static(**options), {}, LATE_S)
    assert [create.node_id for create in late.changes.create] == [""]
    draining = apply(late.changes, snapshot(stuck, nodes=nodes), LATE_S)
    assert decide(draining, static(**options), late.state, LATE_S + 5.0).changes == Changes()
    gone = replace(draining, replicas=tuple(r for r in draining.replicas if r.replica_id != "d"))
    then = decide(gone, static(**options), late.state, LATE_S + 10.0)
    assert [create.node_id for create in then.changes.create] == ["n"]


def test_what_waits_for_a_node_stops_counting_and_goes_on_waiting():
    """It holds nothing, and another would wait like it."""
    full = (node("n", accelerators=2),)
    waiting = replica("d", D, "", state=ReplicaState.PENDING)
    late = decide(snapshot(waiting, nodes=full), static(), {}, LATE_S)
    assert late.changes == Changes()
    assert late.signals["s"].stages[D].coming == 0
    assert late.plans["s"].stages[D].replicas == 1


def test_a_provisioner_that_is_stuck_never_has_more_than_was_planned():
    """Four hours in which no decode ever starts: one at a time, on no more accelerators than there are."""
    now, state, policies, given_up = snapshot(nodes=(node("n", accelerators=4),)), {}, static(), 0
    for tick in range(2_880):
        at_s = tick * 5.0
        decision = decide(now, policies, state, at_s)
        state = decision.state
        given_up += len(decision.changes.remove)
        alive = tuple(r for r in now.replicas if r.state is not ReplicaState.DRAINING)
        now = apply(decision.changes, replace(now, replicas=alive), at_s)
        decodes = [r for r in now.replicas if r.stage is D]
        assert len([r for r in decodes if r.state is not ReplicaState.DRAINING]) == 1
        assert sum(r.tp for r in now.replicas if r.node_id) <= 4
    assert given_up == 4 * 3_600 // (PENDING_TIMEOUT_S + 5)


def test_while_a_gateway_is_missing_no_stage_is_known_well_enough_to_shrink():
    """Three quarters of the load seem to be gone; half a minute later they are."""
    a, b, looks, state = ServiceTotals(BUDGETS), ServiceTotals(BUDGETS), Looks(), {}
    policies = {"s": replace(policy(), scaling="static", params=ONE_EACH)}
    replicas = [replica(f"{stage}-{n}", stage, "n") for stage in Stage for n in range(2)]
    said = {s: [reading(s, f"{s}-{n}") for n in range(2)] for s in Stage}
    seen = {}
    for tick in range(40):
        at_s, dead = tick * 5.0, tick >= 20
        offer(a, 25, at_s)
        offer(b, 0 if dead else 75, at_s)
        counters = {"a": a} if dead else {"a": a, "b": b}
        sample = looks.at(at_s, counters=counters, readings=said, replicas=replicas)
        taken = Snapshot(services={"s": sample}, replicas=tuple(replicas), nodes=(node("n"),))
        decision = decide(taken, policies, state, at_s)
        state, signals = decision.state, decision.signals["s"]
        seen[at_s] = {s.fresh for s in signals.stages.values()}
        assert signals.fresh
        assert tick == 0 or 4.9 < signals.requests < 20.1
        reasons = {plan.reason for plan in decision.plans["s"].stages.values()}
        assert (ScaleReason.NO_SIGNAL in reasons) is (seen[at_s] == {False})
    assert [at_s for at_s, fresh in seen.items() if fresh == {False}] == [100.0 + 5.0 * n for n in range(5)]
    assert seen[95.0 + GONE_S] == {True}
    assert GONE_S <= STALE_S


@pytest.mark.parametrize("counts", [ONE_EACH, StaticParams(encode=3, prefill=2, decode=1)])
def test_weaker_replicas_that_stand_in_are_not_added_to_without_signals(counts):
    """Five l4 do what a plan of one h100 asks for. Counted as five h100 they would call for 25 l4."""
    weak = policy(hardware=["h100", "l4"])
    there = Snapshot(services={"s": None}, nodes=(node("n", "l4", accelerators=200),))
    there = apply(decide(there, {"s": replace(weak, params=counts)}, {}, 0.0).changes, there, 0.0)
    assert len(there.replicas) == 5 * (counts.encode + counts.prefill + counts.decode)
    policies, state = {"s": replace(weak, scaling="coupled", params=CoupledParams())}, {}
    for tick in range(1, 100):
        decision = decide(there, policies, state, tick * 5.0)
        assert decision.changes == Changes()
        state = decision.state


def test_one_that_says_that_it_cannot_start_is_given_up_at_once():
    """If it serves nevertheless, it stays."""
    failed = replica("d", D, "n", state=ReplicaState.STARTING, since_s=0.0, failed=True)
    given_up = decide(snapshot(failed), static(), {}, 1.0)
    assert [(r.replica_id, r.reason) for r in given_up.changes.remove] == [("d", PlaceReason.START_FAILED)]
    assert [(c.stage, c.node_id) for c in given_up.changes.create] == [(D, "n")]
    assert decide(snapshot(replace(failed, state=ReplicaState.READY)), static(), {}, 1.0).changes == Changes()
