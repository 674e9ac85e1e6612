"""Several clusters as one topology, and what each of them can take."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.changes import Changes, Create
from orchestrator.core.federation import across_clusters, shares
from orchestrator.core.observed import ReplicaState
from orchestrator.core.planned import EdgeLevels
from orchestrator.core.pools import Pool, steps
from orchestrator.core.scheduler import place
from tests.orchestrator.core.fleets import D, E, P, node, plan, policy, replica, snapshot


@pytest.mark.parametrize("edges", [(0, 0), (0, 1), (1, 2)])
def test_every_edge_requires_the_same_cluster_and_what_it_required_inside(edges):
    inside = policy(levels=("block", "rack"), edges=edges)
    around = across_clusters(inside)
    assert around.levels == ("cluster", "block", "rack")
    assert around.edges == EdgeLevels(encode_prefill=edges[0] + 1, prefill_decode=edges[1] + 1)
    assert replace(around, levels=inside.levels, edges=inside.edges) == inside


def test_a_service_that_one_cluster_has_no_room_for_is_in_several_each_of_them_whole():
    """Although nothing has to be near anything inside a cluster."""
    nodes = [node(f"{at}-{n}", accelerators=4, domain=at) for at in ("east", "west") for n in range(2)]
    found = place({"s": plan(4, 4, 4)}, {"s": across_clusters(policy(levels=()))}, snapshot(nodes))
    assert not found.unplaced
    sites = {}
    for each in found.create:
        sites.setdefault(each.group, set()).add(each.domain)
    assert all(len(at) == 1 for at in sites.values())
    assert set.union(*sites.values()) == {("east",), ("west",)}
    for at in ("east", "west"):
        assert {each.stage for each in found.create if each.domain == (at,)} == {E, P, D}


def ready(cluster, encode, prefill, decode, **more):
    counts = {E: encode, P: prefill, D: decode}
    return [
        replica(f"{cluster}-{stage}-{n}", stage, "n", **more) for stage, n in counts.items() for n in range(n)
    ]


@pytest.mark.parametrize(
    ("east", "west", "share"),
    [
        pytest.param((2, 2, 2), (1, 1, 1), 2 / 3, id="in-proportion"),
        pytest.param((3, 3, 3), (9, 0, 9), 1.0, id="a-stage-is-missing"),
        pytest.param((1, 3, 1), (1, 1, 1), 0.5, id="too-much-of-one-stage-is-of-no-use"),
        pytest.param((0, 0, 0), (0, 0, 0), 0.0, id="nothing-anywhere"),
    ],
)
def test_a_cluster_s_share_is_what_all_of_its_stages_can_take(east, west, share):
    there = {"east": ready("east", *east), "west": ready("west", *west)}
    found = shares(plan(2, 2, 2), policy(), there)
    assert found["east"] == pytest.approx(share)
    assert sum(found.values()) == pytest.approx(1.0 if share else 0.0)


def test_what_a_stage_needs_counts_and_not_what_it_has():
    """Of prefill there is twice what is asked for: who has the less of it can take as much as the other."""
    there = {"east": ready("east", 0, 3, 1), "west": ready("west", 0, 1, 1)}
    assert shares(plan(0, 2, 2), policy(), there) == {"east": 0.5, "west": 0.5}


def test_without_demand_what_is_planned_counts():
    idle = plan(1, 1, 2)
    idle = replace(idle, stages={stage: replace(each, need=0.0) for stage, each in idle.stages.items()})
    there = {"east": ready("east", 1, 1, 1), "west": ready("west", 0, 0, 1)}
    assert shares(idle, policy(), there) == {"east": 1.0, "west": 0.0}


def test_only_what_serves_the_service_counts_by_what_it_can_do():
    there = {
        "east": ready("east", 0, 2, 2, hardware="h100"),
        "west": [
            *ready("west", 0, 2, 2),
            *ready("starting", 0, 5, 5, state=ReplicaState.STARTING),
            *ready("other", 0, 5, 5, service="other"),
        ],
    }
    found = shares(plan(0, 4, 4), policy(hardware=("a100", "h100")), there)
    assert found["east"] / found["west"] == pytest.approx(2.5)


COUNTS = st.tuples(*[st.integers(0, 4)] * 3)


@given(COUNTS, COUNTS, COUNTS, st.sampled_from([E, P, D]))
def test_a_replica_more_never_means_a_smaller_share(need, east, west, stage):
    there = {"east": ready("east", *east), "west": ready("west", *west)}
    more = {**there, "east": [*there["east"], replica("more", stage, "n")]}
    before, after = (shares(plan(*need), policy(), each)["east"] for each in (there, more))
    assert after >= before - 1e-12
    assert 0.0 <= after <= 1.0 + 1e-12


POOLS = {Pool("s", P, "a100", cluster): 0 for cluster in ("east", "west")}


@pytest.mark.parametrize(
    ("domain", "cluster"),
    [
        pytest.param(("west", "r1"), "west", id="placed"),
        pytest.param((), "east", id="no-place-anywhere"),
    ],
)
def test_a_replica_comes_from_the_pool_of_its_place(domain, cluster):
    """One without a place waits where anybody looks first."""
    create = Create(service="s", stage=P, hardware="a100", tp=1, node_id="n" if domain else "", domain=domain)
    todo = steps(Changes(create=(create,)), (), POOLS, {})
    assert [(scale.pool.cluster, scale.replicas) for scale in todo.scale] == [(cluster, 1)]


def test_a_cluster_without_the_pool_is_told():
    create = Create(service="s", stage=P, hardware="a100", tp=1, node_id="n", domain=("north",))
    assert steps(Changes(create=(create,)), (), POOLS, {}).without_pool == (Pool("s", P, "a100", "north"),)
