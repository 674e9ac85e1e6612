"""Faults: every request ends once, what is lost is done again, and books balance afterwards."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.observed import ReplicaState
from orchestrator.core.scaling.static import StaticParams
from orchestrator.simulator.faults import (
    MetricLoss,
    NodeLoss,
    QuotaCut,
    ReplicaLoss,
    StuckProvisioner,
    ZoneLoss,
)
from orchestrator.simulator.outcomes import Ending
from orchestrator.simulator.recovery import is_gone
from orchestrator.simulator.run import Simulation, simulate
from orchestrator.simulator.scenario import load_subject
from stages.types import Stage
from tests.orchestrator.simulator.test_simulate import POLICY, TRACE, of_any_length

FLEET = "l40s=4x8,h100=12x8"
SPAN_S = 40.0
BURST_S = 100.0  # of the trace; there are many images in it

times = st.floats(0.0, 2 * SPAN_S)
spans = st.floats(1.0, 3 * SPAN_S)
faults = st.one_of(
    st.builds(ReplicaLoss, at_s=times, stage=st.sampled_from([None, *Stage]), count=st.integers(1, 20)),
    st.builds(NodeLoss, at_s=times, for_s=spans),
    st.builds(ZoneLoss, at_s=times, for_s=spans, domain=st.sampled_from(["", "h100-1", "l40s-0"])),
    st.builds(MetricLoss, at_s=times, for_s=spans, stage=st.sampled_from([None, *Stage])),
    st.builds(StuckProvisioner, at_s=times, for_s=spans),
    st.builds(
        QuotaCut,
        at_s=times,
        for_s=spans,
        hardware=st.sampled_from(["h100", "l40s"]),
        most=st.integers(0, 64),
    ),
)


@pytest.fixture(scope="module")
def subject():
    whole = of_any_length(load_subject(POLICY, TRACE, fleet=FLEET))
    return replace(whole, workload=whole.workload.slice(BURST_S, BURST_S + SPAN_S))


@pytest.fixture(scope="module")
def scenario(subject):
    return subject.scenario()


def held_back(service, pool):
    """Return the replicas that could take the most urgent hop of a pool, which nothing holds back."""
    waiting = pool.waiting()
    if not waiting or (pool.only_encodes and service.journey.queues._held()):
        return []
    hop = waiting[0]
    return [
        replica.replica_id
        for replica in pool.ready()
        if replica.in_flight < replica.slots and replica.free_kv_bytes >= hop.kv_bytes
    ]


def not_begun(pool):
    """Return the hops that wait or for which transfers are under way."""
    return [*pool.waiting(), *[hop for r in pool.replicas for hop in r.running if not hop.begun]]


def check_now(simulation):
    """Nobody is on a lost node, accelerators suffice, nobody waits for what is gone or idles beside work."""
    world, used = simulation.world, Counter()
    for replica in world.replicas.values():
        assert not world.outages.nodes[replica.node_id]
        used[replica.node_id] += replica.tp
        assert 0 <= replica.free_kv_bytes <= replica.total_kv_bytes
    assert all(count <= world.nodes[node].accelerators for node, count in used.items())
    for service in simulation.services:
        for pool in service.pools:
            assert not held_back(service, pool)
            for request in [hop.request for hop in not_begun(pool) if not hop.request.ended]:
                source = service.journey.handover.source(request)
                assert source in (None, *world.replicas.values())
                if pool.stage is not Stage.DECODE:  # which has no use for embeddings
                    assert not any(is_gone(each, world.lost_at) for each in request.embeddings_at)


def checked_run(scenario):
    """Run with checks all along and at the end; return what happened."""
    simulation = Simulation(scenario)
    for tick in range(int(4 * SPAN_S)):
        simulation.clock.at(tick + 0.37, lambda _: check_now(simulation), None)
    for fault in scenario.faults:
        simulation.clock.at(fault.at_s + 1e-9, lambda _: check_now(simulation), None)
    run = simulation.run()
    for replica in simulation.world.replicas.values():
        assert (replica.in_flight, replica.pending_tokens, replica.running) == (0, 0, {})
        assert replica.free_kv_bytes == replica.total_kv_bytes
    for service in simulation.services:
        for pool in service.pools:
            assert (pool.depth, pool.waiting_tokens) == (0, 0)
    return run


def there(run, moment):
    """Return the replicas that are there or coming, by stage."""
    counts = run.only.timeline[moment].counts
    return {stage: counts[stage].ready + counts[stage].coming for stage in Stage}


@settings(max_examples=25, deadline=None)
@given(st.lists(faults, max_size=5), st.integers(0, 3))
def test_whatever_fails_every_request_ends_once_and_the_books_balance(scenario, chosen, seed):
    """Conservation, no replica on a lost node, work conservation, KV and credits back to zero."""
    run = checked_run(replace(scenario, faults=tuple(chosen), seed=seed))
    endings = Counter(run.only.outcomes.ending.tolist())
    assert endings[Ending.OPEN] == endings[Ending.FAILED] == 0
    assert len(run.strikes) == len([fault for fault in chosen if fault.at_s <= run.span_s])


def test_equal_seeds_hit_equal_victims(scenario):
    struck = replace(scenario, faults=(ReplicaLoss(at_s=9.0, count=3), NodeLoss(at_s=20.0)))
    first, again = simulate(struck), simulate(struck)
    assert first.strikes == again.strikes
    np.testing.assert_array_equal(first.only.outcomes.ttft_s, again.only.outcomes.ttft_s)
    assert simulate(replace(struck, seed=5)).strikes != first.strikes


def test_faults_that_never_come_change_nothing(scenario):
    before, after = simulate(scenario), simulate(replace(scenario, faults=(NodeLoss(at_s=1e9),)))
    assert not after.strikes
    np.testing.assert_array_equal(before.only.outcomes.ttft_s, after.only.outcomes.ttft_s)


def test_lost_replicas_are_replaced(subject):
    """Control makes as many anew as were lost; what ran on them is answered late."""
    scenario = subject.scenario(scaling="static", params=StaticParams(encode=24, prefill=4, decode=4))
    losses = (
        ReplicaLoss(at_s=20.0, stage=Stage.DECODE, count=2),
        ReplicaLoss(at_s=20.0, stage=Stage.PREFILL),
    )
    run = checked_run(replace(scenario, faults=losses))
    assert there(run, -1) == there(run, 0)
    assert np.all(run.only.outcomes.ending == Ending.ANSWERED)


def test_a_lost_decode_does_not_say_its_tokens_again(subject):
    """It goes on at the token where it was: the KV of what was said is made by prefill, in one pass."""
    static = subject.scenario(scaling="static", params=StaticParams(encode=48, prefill=8, decode=6))
    loss = ReplicaLoss(at_s=30.0, stage=Stage.DECODE, count=3)
    before, after = simulate(static), simulate(replace(static, faults=(loss,)))
    longest = np.argmax(before.only.tenant.workload.output_tokens)
    once, twice = (run.only.outcomes.tpot_s[longest] for run in (before, after))
    assert once < twice < 1.5 * once


def test_embeddings_of_a_lost_node_are_encoded_again(subject):
    """A prompt that waits for the one prefill replica goes back to encode, and is answered."""
    simulation = Simulation(
        subject.scenario(scaling="static", params=StaticParams(encode=24, prefill=1, decode=4))
    )
    world, (service,) = simulation.world, simulation.services
    again = []

    def lose_embeddings(_):
        waiting = [hop for hop in service.pool_of[Stage.PREFILL].waiting() if hop.request.embeddings_at]
        if not waiting or again:
            return
        request = waiting[0].request
        nodes = [embedding.node_id for embedding in request.embeddings_at]
        world.lose([r for r in world.replicas.values() if r.node_id in nodes], nodes)
        again.append(request)
        assert request.images_left == len(nodes)
        assert waiting[0] not in service.pool_of[Stage.PREFILL].waiting()

    for tick in range(int(SPAN_S / 0.02)):
        simulation.clock.at(0.02 * tick, lose_embeddings, None)
    run = simulation.run()
    assert run.only.outcomes.ending[again[0].index] == Ending.ANSWERED


def test_a_lost_node_comes_back(scenario):
    """It is not in the snapshot while it is gone."""
    seen = {}
    simulation = Simulation(replace(scenario, faults=(NodeLoss(at_s=10.0, for_s=10.0, node="h100-00003"),)))
    for at_s in (9.0, 15.0, 21.0):
        simulation.clock.at(at_s, lambda at: seen.update({at: simulation.world.snapshot().nodes}), at_s)
    simulation.run()
    there = {at: any(node.node_id == "h100-00003" for node in nodes) for at, nodes in seen.items()}
    assert there == {9.0: True, 15.0: False, 21.0: True}


def test_node_loss_during_scale_in_leaves_nothing_behind(subject):
    """What drained on the node is gone with it; the stage ends at the count that was planned."""
    scenario = subject.scenario(scaling="static", params=StaticParams(encode=24, prefill=4, decode=4))
    fewer = StaticParams(encode=12, prefill=2, decode=2)
    tenant = replace(scenario.only, control=replace(scenario.only.control, params=fewer))
    nodes = sorted({create.node_id for create in scenario.first.create if create.stage is Stage.DECODE})
    losses = tuple(NodeLoss(at_s=6.0, node=node) for node in nodes[:1])
    run = checked_run(replace(scenario, tenants=(tenant,), faults=losses))
    undisturbed = simulate(replace(scenario, tenants=(tenant,)))
    assert there(run, -1) == there(undisturbed, -1) != there(run, 0)


def test_a_burst_in_cooldown_without_metrics_never_shrinks(subject):
    """Rule 3: missing signals never shrink a pool."""
    scenario = replace(subject.scenario(), faults=(MetricLoss(at_s=10.0, for_s=1e6),))
    simulation, totals = Simulation(scenario), []
    for at_s in np.arange(12.0, 4 * SPAN_S, 5.0).tolist():
        simulation.clock.at(at_s, lambda _: totals.append(_alive(simulation)), None)
    simulation.run()
    for before, after in pairwise(totals):
        assert all(after[stage] >= before[stage] for stage in Stage)


def test_silent_replicas_of_one_stage_leave_the_others_and_the_counts(subject):
    """That stage is known to be incomplete while the fault lasts; what gateways count of it still grows."""
    scenario = replace(subject.scenario(), faults=(MetricLoss(at_s=12.0, for_s=10.0, stage=Stage.PREFILL),))
    simulation, seen = Simulation(scenario), {}

    def look(at_s):
        (seen[at_s],) = simulation.world.snapshot().services.values()

    for at_s in (11.0, 18.0, 24.0):
        simulation.clock.at(at_s, look, at_s)
    simulation.run()
    complete = {at_s: [s for s in Stage if not sample.stages[s].complete] for at_s, sample in seen.items()}
    assert complete == {11.0: [], 18.0: [Stage.PREFILL], 24.0: []}
    assert seen[18.0].stages[Stage.PREFILL].offered_units > seen[11.0].stages[Stage.PREFILL].offered_units


def _alive(simulation):
    states = (ReplicaState.READY, ReplicaState.STARTING)
    return Counter(r.stage for r in simulation.world.replicas.values() if r.state in states)


@pytest.fixture(scope="module")
def growing(subject):
    """Control that wants twice the replicas that there are at the start."""
    scenario = subject.scenario(scaling="static", params=StaticParams(encode=8, prefill=2, decode=2))
    more = StaticParams(encode=16, prefill=4, decode=4)
    tenant = replace(scenario.only, control=replace(scenario.only.control, params=more))
    return replace(scenario, tenants=(tenant,))


def test_nothing_becomes_ready_while_the_provisioner_is_stuck(growing):
    """What would have been ready is so at the end of the fault."""
    stuck = StuckProvisioner(at_s=0.0, for_s=90.0)
    work = replace(growing.only.workload, span_s=200.0, arrival_s=growing.only.workload.arrival_s * 5.0)
    scenario = replace(growing, tenants=(replace(growing.only, workload=work),), faults=(stuck,))
    ready = {moment.at_s: moment.counts[Stage.ENCODE].ready for moment in simulate(scenario).only.timeline}
    assert {count for at_s, count in ready.items() if at_s < 90.0} == {8}
    assert {count for at_s, count in ready.items() if at_s > 90.0} == {16}


def test_a_quota_stops_growth_and_takes_nothing_away(growing):
    """Replicas that run keep their accelerators; others wait without a node."""
    quota = QuotaCut(at_s=0.0, hardware="l40s", most=0)
    free, cut = (simulate(replace(growing, faults=faults)) for faults in ((), (quota,)))
    assert there(cut, 0) == there(free, 0)
    assert there(cut, -1)[Stage.ENCODE] == 16
    spent = [run.only.accelerator_s[Stage.ENCODE, "l40s"] / run.span_s for run in (cut, free)]
    assert spent[0] == pytest.approx(8.0)
    assert spent[1] > 12.0
