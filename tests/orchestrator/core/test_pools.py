"""steps(): a decision's changes, step by step, on Deployments whose pods wait for their place."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.changes import Changes, Remove
from orchestrator.core.decide import decide
from orchestrator.core.observed import ReplicaState, ServiceSample, Snapshot, StageSample
from orchestrator.core.pools import Pool, Scale, Steps, as_replica, steps
from orchestrator.core.scaling.static import StaticParams
from stages.types import Stage
from tests.fakes.cluster import FakeCluster, pools
from tests.orchestrator.core.fleets import D, E, P, SwitchingParams, node, policy

TYPES = ("a100", "h100")
POOLS = {Pool("s", stage, hardware): 1 for stage in Stage for hardware in TYPES}


def ticks(cluster, encode, prefill, decode, number=8, params=StaticParams, **options):
    """Control a cluster towards fixed counts; return the steps of each tick."""
    counts = params(encode=encode, prefill=prefill, decode=decode)
    policies = {"s": replace(policy(hardware=TYPES, **options), params=counts)}
    taken, state = [], {}
    for number_of_tick in range(number):
        now_s = 5.0 * number_of_tick
        seen = cluster.look(now_s)
        sample = ServiceSample(at_s=now_s, stages=dict.fromkeys(Stage, StageSample()))
        snapshot = Snapshot(
            services={"s": sample},
            replicas=tuple(map(as_replica, seen.pods)),
            nodes=seen.nodes,
            orders=seen.orders,
        )
        decision = decide(snapshot, policies, state, now_s)
        state = decision.state
        todo = steps(decision.changes, seen.pods, seen.counts, {pod.name: pod.name for pod in seen.pods})
        for admit in todo.admit:
            cluster.admit(admit, now_s)
        for move in todo.move:
            cluster.move(move, now_s)
        for scale in todo.scale:
            cluster.scale(scale)
        cluster.settle()
        taken.append(todo)
    return taken


def by_stage(cluster):
    found = dict.fromkeys(Stage, 0)
    for pod in cluster.pods.values():
        found[pod.pool.stage] += pod.ready
    return found


def test_replicas_come_in_two_steps_and_then_nothing_is_left_to_do():
    cluster = FakeCluster(nodes=(node("n", accelerators=8),), tp=dict(POOLS))
    first, second, *rest = ticks(cluster, 1, 2, 3)
    assert {scale.pool.stage: scale.replicas for scale in first.scale} == {E: 1, P: 2, D: 3}
    assert first.admit == ()
    assert len(second.admit) == 6
    assert {admit.create.node_id for admit in second.admit} == {"n"}
    assert all(not (todo.admit or todo.scale) for todo in rest)
    assert by_stage(cluster) == {E: 1, P: 2, D: 3}


def test_a_step_that_is_repeated_before_it_shows_asks_for_the_same():
    cluster = FakeCluster(nodes=(node("n", accelerators=8),), tp=dict(POOLS))
    cluster.settle = lambda: None  # Kubernetes is slow
    first, *rest = ticks(cluster, 1, 1, 1, number=4)
    assert cluster.counts == {pool: int(pool.hardware == "a100") for pool in POOLS}
    assert all(not todo.scale for todo in rest)
    assert first.scale


def test_what_finds_no_place_waits_behind_its_gate_until_there_is_one():
    cluster = FakeCluster(nodes=(node("n", accelerators=2),), tp=dict(POOLS))
    ticks(cluster, 1, 1, 2)
    assert sum(pod.gated for pod in cluster.pods.values()) == 2
    cluster.nodes = (node("n", accelerators=4),)
    ticks(cluster, 1, 1, 2)
    assert by_stage(cluster) == {E: 1, P: 1, D: 2}


def test_a_replica_that_runs_goes_only_when_kubernetes_would_take_no_other():
    """A replica that has just started is not deleted in place of an older one that was chosen."""
    cluster = FakeCluster(nodes=(node("n", accelerators=8),), tp=dict(POOLS))
    ticks(cluster, 1, 1, 3)
    pods = [pod for pod in cluster.pods.values() if pod.pool.stage is D]
    removal = Remove(replica_id=pods[0].name, service="s", stage=D)
    seen = [pods[0], pods[1], replace(pods[2], ready=False)]
    pod_of = {pod.name: pod.name for pod in pods}
    counts = {pods[0].pool: 3}
    assert steps(Changes(remove=(removal,)), seen, counts, pod_of) == Steps(deferred=(pods[0].name,))
    todo = steps(Changes(remove=(removal,)), pods, counts, pod_of)
    assert todo == Steps(scale=(Scale(pool=pods[0].pool, replicas=2, victims=(pods[0].name,)),))


def test_the_replica_that_was_chosen_is_the_one_that_goes():
    cluster = FakeCluster(nodes=(node("n", accelerators=8),), tp=dict(POOLS))
    ticks(cluster, 1, 1, 3)
    before = set(cluster.pods)
    (scale,) = [scale for todo in ticks(cluster, 1, 1, 2) for scale in todo.scale]
    assert before - set(cluster.pods) == set(scale.victims)


def test_a_replica_that_switches_roles_goes_and_one_of_the_other_role_takes_its_place():
    """Where it cannot be moved."""
    cluster = FakeCluster(nodes=(node("n", accelerators=4),), tp=dict(POOLS))
    ticks(cluster, 1, 2, 1)
    (first, *_) = ticks(cluster, 1, 1, 2, params=SwitchingParams)
    assert {scale.pool.stage: (scale.replicas, len(scale.victims)) for scale in first.scale} == {
        P: (1, 1),
        D: (2, 0),
    }
    assert by_stage(cluster) == {E: 1, P: 1, D: 2}
    assert ticks(cluster, 1, 1, 2, number=1, params=SwitchingParams) == [Steps()]


def test_a_replica_that_can_be_moved_takes_the_other_role_and_stays_where_it_is():
    """A pod waits in the pool of its new role, and it stands in for that one."""
    cluster = FakeCluster(nodes=(node("n", accelerators=4),), tp=dict(POOLS), movable=True)
    ticks(cluster, 1, 2, 1)
    before = {pod.name: pod.pool.stage for pod in cluster.pods.values()}
    first, second, third, *rest = ticks(cluster, 1, 1, 2, params=SwitchingParams)
    (moved,) = first.deferred
    assert before[moved] is P
    assert {scale.pool.stage: (scale.replicas, scale.victims) for scale in first.scale} == {D: (2, ())}
    assert [move.pod for move in second.move] == [moved]
    assert not second.scale
    assert [(scale.pool.stage, scale.replicas) for scale in third.scale] == [(P, 1)]
    assert all(todo == Steps() for todo in rest)
    assert {pod.name: pod.pool.stage for pod in cluster.pods.values()} == before | {moved: D}


def test_nobody_moves_to_a_pool_that_the_cluster_does_not_have():
    cluster = FakeCluster(
        nodes=(node("n", accelerators=4),),
        tp={pool: 1 for pool in POOLS if pool.hardware == "a100"},
        movable=True,
    )
    ticks(cluster, 1, 2, 1)
    (pool,) = [pool for pool in cluster.tp if pool.stage is D]
    del cluster.counts[pool]
    todo = ticks(cluster, 1, 1, 2, number=1, params=SwitchingParams)[0]
    assert not todo.move
    assert todo.without_pool == (pool,)


def test_a_pool_that_the_cluster_does_not_have_is_told():
    cluster = FakeCluster(
        nodes=(node("n", accelerators=8),), tp={pool: 1 for pool in POOLS if pool.stage is not E}
    )
    todo = ticks(cluster, 1, 1, 1)[0]
    assert todo.without_pool == (Pool("s", E, "a100"),)


@given(
    first=st.tuples(*[st.integers(0, 4)] * 3),
    then=st.tuples(*[st.integers(0, 4)] * 3),
    accelerators=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    movable=st.booleans(),
)
def test_any_fleet_comes_to_rest_within_its_nodes(first, then, accelerators, movable):
    """Whatever is asked for, and then instead of it: a few ticks later nothing is left to do."""
    nodes = tuple(
        node(f"n-{kind}", kind, number) for kind, number in zip(TYPES, accelerators, strict=True) if number
    )
    cluster = FakeCluster(nodes=nodes, tp=dict(POOLS), movable=movable)
    ticks(cluster, *first, params=SwitchingParams)
    *_, last = ticks(cluster, *then, number=12, params=SwitchingParams)
    assert not (last.admit or last.move or last.scale)
    used = [as_replica(pod) for pod in cluster.pods.values() if not pod.gated]
    for each in nodes:
        assert sum(r.tp for r in used if r.node_id == each.node_id) <= each.accelerators
    assert all(r.state is ReplicaState.READY for r in used)
    assert pools(cluster.pods.values()) == {pool: n for pool, n in cluster.counts.items() if n}
