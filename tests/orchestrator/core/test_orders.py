"""Nodes that do not exist yet: what is offered, what is taken of it, and what becomes of an order."""

import pytest

from orchestrator.core.orders import NodePool, orderable, shun, shunning
from orchestrator.core.scheduler import place
from tests.fakes.cluster import FakeCluster
from tests.orchestrator.core.fleets import D, E, P, node, plan, policy, snapshot
from tests.orchestrator.core.test_pools import POOLS, by_stage, ticks

ZONES = (("A",), ("B",))


def pool(most=2, **more):
    return NodePool(**{"name": "p", "hardware": "a100", "accelerators": 8, "most": most, **more})


def offered(*pools, made=(), awaited=(), depth=3):
    """Return ids of the nodes on order, ids on offer, and how many of these may be taken."""
    nodes, left = orderable(pools, made, awaited, depth)
    ids = {True: [], False: []}
    for each in nodes:
        ids[bool(each.node_pool)].append(each.node_id)
    return ids[False], ids[True], left


@pytest.mark.parametrize(
    ("more", "made", "awaited", "found"),
    [
        pytest.param({}, (), (), ([], ["p/0", "p/1"], 2), id="all"),
        pytest.param({}, (), ("p/1",), (["p/1"], ["p/0"], 1), id="one-is-awaited"),
        pytest.param({}, ("p/0",), ("p/1",), (["p/1"], [], 0), id="one-is-there"),
        pytest.param({}, ("p/0", "p/1", "p/7"), (), ([], [], 0), id="limit-was-lowered"),
        pytest.param({"claimed": 1}, (), ("p/0",), (["p/0"], ["p/1"], 1), id="its-node-is-being-made"),
        pytest.param({"claimed": 2}, (), (), ([], [], 0), id="others-have-taken-all"),
        pytest.param({}, ("q/0",), ("q/1",), ([], ["p/0", "p/1"], 2), id="of-another-pool"),
        pytest.param(
            {"domains": ZONES}, ("p/0",), (), ([], ["p/2", "p/1"], 1), id="so-many-in-each-zone"
        ),
    ],
)  # fmt: skip
def test_what_is_left_of_a_pool_is_offered(more, made, awaited, found):
    """What pods wait for counts once, whether or not the pool has begun to make it."""
    on_order, on_offer, most = found
    assert offered(pool(**more), made=made, awaited=awaited) == (on_order, on_offer, {"p": most})


def test_below_what_can_be_chosen_each_order_is_a_domain_of_its_own():
    nodes, _ = orderable([pool(domains=ZONES)], (), (), 3)
    assert [each.domain for each in nodes if each.node_id == "p/1"] == [("B", "p/1", "p/1")]
    nodes, _ = orderable([pool()], (), (), 0)
    assert {each.domain for each in nodes} == {()}


def placed(plans, fleet, policies=None, **more):
    """Return stage and node of each replica that is created, and how many find no place."""
    nodes, left = orderable(more.pop("pools", [pool(domains=ZONES)]), (), (), 3)
    policies = policies or {"s": policy(**more)}
    found = place({"s": plans}, policies, snapshot((*fleet, *nodes), orders=left))
    return sorted((each.stage, each.node_id) for each in found.create), len(found.unplaced)


def test_what_there_is_comes_first_however_much_of_it_is_empty():
    """The smallest gap is the new node's, and still it is not ordered."""
    rack = [node(f"n{i}", domain="A/x/1") for i in range(4)]
    created, unplaced = placed(plan(encode=4, prefill=4, decode=4), rack, tp=2)
    assert {node_id for _, node_id in created} <= {f"n{i}" for i in range(4)}
    assert not unplaced


def test_the_rest_is_ordered():
    created, unplaced = placed(plan(encode=2, prefill=1, decode=1), [node("n", accelerators=2)], tp=1)
    assert [node_id for _, node_id in created].count("n") == 2
    assert {node_id for _, node_id in created} - {"n"} == {"p/0"}
    assert not unplaced


def test_members_that_need_one_rack_fit_on_one_new_node_or_are_not_ordered():
    """Two of four accelerators do; two of eight would not be known to be in one rack."""
    together, unplaced = placed(plan(prefill=1, decode=1), [], tp=4, edges=(0, 3))
    assert len({node_id for _, node_id in together}) == 1
    assert not unplaced
    assert placed(plan(prefill=1, decode=1), [], tp=8, edges=(0, 3)) == ([], 2)
    apart, unplaced = placed(plan(prefill=1, decode=1), [], tp=8, edges=(0, 1))
    assert len({node_id for _, node_id in apart}) == 2, "a zone is known"
    assert not unplaced


def test_where_no_zone_can_be_chosen_a_zone_is_one_node_too():
    assert placed(plan(prefill=1, decode=1), [], tp=8, edges=(0, 1), pools=[pool()]) == ([], 2)


def test_nodes_in_several_zones_count_together_against_the_limit():
    """Two nodes are offered in each of two zones, and there will be two."""
    created, unplaced = placed(plan(encode=4), [], tp=8)
    assert (len(created), unplaced) == (2, 2)


def cluster(most=4, **more):
    return FakeCluster(
        nodes=(), tp=dict(POOLS), depth=3, node_pools=(pool(most, domains=ZONES),), **more
    )  # fmt: skip


def test_replicas_are_ordered_once_and_run_when_their_node_is_made():
    """However long that takes."""
    there = cluster()
    taken = ticks(there, 2, 3, 4, number=6)
    assert len({pod.node_id for pod in there.pods.values()}) == 2, "nine replicas, eight to a node"
    assert all(not (todo.admit or todo.scale) for todo in taken[2:])
    assert by_stage(there) == {E: 0, P: 0, D: 0}
    there.make()
    (first, *_) = ticks(there, 2, 3, 4, number=2)
    assert not (first.admit or first.scale)
    assert by_stage(there) == {E: 2, P: 3, D: 4}


def test_what_comes_later_goes_to_the_node_that_is_on_order():
    there = cluster()
    ticks(there, 1, 1, 1, number=3)
    ticks(there, 2, 3, 3, number=3)
    assert {pod.node_id for pod in there.pods.values()} == {"p/0"}


def test_an_order_that_nobody_needs_any_more_is_taken_back():
    there = cluster()
    ticks(there, 2, 3, 4, number=4)
    ticks(there, 1, 1, 1, number=4)
    assert len(there.pods) == 3
    there.make()
    ticks(there, 1, 1, 1, number=2)
    assert by_stage(there) == {E: 1, P: 1, D: 1}


def test_what_is_never_made_is_given_up_and_ordered_anew():
    """After the policy's `pending_timeout_s`, 900 seconds."""
    there = cluster()
    ticks(there, 1, 1, 1, number=3)
    first = set(there.pods)
    taken = ticks(there, 1, 1, 1, number=190)
    assert not first & set(there.pods)
    assert {pod.node_id.partition("/")[0] for pod in there.pods.values() if not pod.gated} == {"p"}
    assert sum(bool(todo.admit) for todo in taken) == 1


def test_where_orders_come_to_nothing_no_more_are_placed_for_a_while():
    """A zone that has none left: the next order is for another zone, and none waits on the failed one."""
    there = cluster(sold_out="A")
    settle = there.settle
    there.settle = lambda: (there.make(), settle())
    ticks(there, 1, 1, 1, number=190)
    assert by_stage(there) == {E: 1, P: 1, D: 1}
    assert {pod.node_id for pod in there.pods.values()} == {"p-1"}


def test_a_site_that_has_no_other_beside_it_is_asked_again():
    nodes, left = orderable([pool()], (), (), 0)
    there = snapshot(nodes, orders=left)
    shunned = shun({}, nodes[:1], 100.0, 50.0)
    assert shunning(there, shunned, ()) == there
    assert shun(shunned, (), 149.0, 50.0) == {("p",): 150.0}
    assert shun(shunned, (), 150.0, 50.0) == {}
