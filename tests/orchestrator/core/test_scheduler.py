from dataclasses import replace

import pytest

from orchestrator.core.changes import Create, PlaceReason
from orchestrator.core.observed import ReplicaState
from orchestrator.core.scheduler import apply, diff, place
from tests.orchestrator.core.fleets import D, E, P, node, plan, policy, replica, snapshot

PENDING, STARTING, READY = ReplicaState.PENDING, ReplicaState.STARTING, ReplicaState.READY
RACKS = [node("n1", domain="c/b/1"), node("n2", domain="c/b/2"), node("n3", "h100", domain="c/b/3")]


def placed(counts, its_policy, nodes, replicas=(), **more):
    return place({"s": plan(*counts)}, {"s": its_policy}, snapshot(nodes, replicas, **more))


def where(placement):
    return sorted((c.stage, c.hardware, c.node_id) for c in placement.create)


@pytest.mark.parametrize(
    ("counts", "its_policy", "nodes", "found"),
    [
        pytest.param(
            (1, 1, 2),
            policy(edges=(3, 3)),
            [node("n1", accelerators=2, domain="c/b/1"), node("n2", accelerators=4, domain="c/b/2")],
            [(D, "a100", "n2"), (D, "a100", "n2"), (E, "a100", "n2"), (P, "a100", "n2")],
            id="together-in-the-level-that-the-edges-require",
        ),
        pytest.param(
            (0, 1, 1),
            policy(edges=(0, 3)),
            [node("n1", accelerators=8, domain="c/b/1"), node("n2", accelerators=2, domain="c/b/2")],
            [(D, "a100", "n2"), (P, "a100", "n2")],
            id="in-the-tightest-domain",
        ),
        pytest.param(
            (0, 2, 2),
            policy(edges=(0, 2), hardware={E: ["a100"], P: ["a100"], D: ["h100"]}),
            [
                node("n1", domain="c/b1/1"),
                node("n2", domain="c/b2/1"),
                node("n3", "h100", domain="c/b2/2"),
            ],
            [(D, "h100", "n3"), (D, "h100", "n3"), (P, "a100", "n2"), (P, "a100", "n2")],
            id="mixed-hardware-where-the-required-level-has-it",
        ),
        pytest.param(
            (0, 5, 0),
            policy(hardware=["a100", "h100"]),
            RACKS,
            [(P, "h100", "n3"), (P, "h100", "n3")],
            id="fewer-of-faster-hardware-if-that-is-cheaper",
        ),
        pytest.param(
            (0, 1, 0),
            policy(hardware=["h100", "a100", "l4"]),
            [*RACKS, node("n4", "l4")],
            [(P, "l4", "n4")] * 5,
            id="more-of-slower-hardware-if-that-is-cheaper",
        ),
        pytest.param(
            (0, 1, 0),
            policy(hardware=["a100", "h100"], speed={"a100": 1.0}),
            [node("n3", "h100")],
            [],
            id="not-on-hardware-without-a-profile",
        ),
        pytest.param(
            (0, 1, 0), policy(), [node("n1", ready=False)], [], id="not-on-a-node-that-is-not-ready"
        ),
        pytest.param(
            (0, 4, 4),
            policy(edges=(0, 1)),
            [node("n1", accelerators=4, domain="A"), node("n2", accelerators=4, domain="B")],
            [(stage, "a100", name) for stage in (D, P) for name in ("n1", "n1", "n2", "n2")],
            id="groups-of-the-same-mixture-where-one-is-too-small",
        ),
        pytest.param(
            (1, 1, 1),
            policy(hardware=["h100", "l4"]),
            [node("n1", "l4", accelerators=5)],
            [(E, "l4", "n1"), (D, "l4", "n1"), (D, "l4", "n1"), (P, "l4", "n1"), (P, "l4", "n1")],
            id="less-than-one-of-the-first-class-for-want-of-more",
        ),
        pytest.param(
            (2, 4, 4),
            policy(),
            [node("n1", accelerators=5)],
            [(E, "a100", "n1"), *[(stage, "a100", "n1") for stage in (P, D)] * 2],
            id="the-first-of-encode-before-the-last-room-for-others",
        ),
        pytest.param(
            (1, 2, 2),
            policy(budget=3),
            [node("n1")],
            [(stage, "a100", "n1") for stage in (E, P, D)],
            id="the-first-of-encode-before-the-last-of-the-budget",
        ),
        pytest.param(
            (0, 1, 1),
            policy(hardware=["h100", "l4"], edges=(0, 3)),
            [
                node("n1", "l4", accelerators=1, domain="c/b/1"),
                node("n2", "l4", accelerators=1, domain="c/b/2"),
            ],
            [],
            id="and-all-or-nothing-then-too",
        ),
    ],
)
def test_from_nothing(counts, its_policy, nodes, found):
    assert where(placed(counts, its_policy, nodes)) == sorted(found)


def test_cost_decides_before_scarcity():
    """Five a100 cost 15 dollars, two h100 that do the same 12, and stand in a mixed domain."""
    nodes = [node("n1", domain="A"), node("n2", "h100", domain="B"), node("n3", domain="B")]
    found = placed((0, 5, 0), policy(edges=(0, 1), hardware=["a100", "h100"]), nodes)
    assert where(found) == [(P, "h100", "n2")] * 2


@pytest.mark.parametrize(
    ("counts", "its_policy", "nodes", "quotas", "reasons"),
    [
        pytest.param(
            (0, 1, 0), policy(speed={"h100": 1.0}), RACKS, {}, {(P, PlaceReason.NO_PROFILE)}, id="no-profile"
        ),
        pytest.param(
            (0, 1, 1),
            policy(edges=(0, 3)),
            [node("n1", domain="c/b")],
            {},
            {(P, PlaceReason.NO_DOMAIN), (D, PlaceReason.NO_DOMAIN)},
            id="no-domain-that-deep",
        ),
        pytest.param(
            (0, 1, 0),
            policy(tp=4),
            [node("n1", accelerators=2), node("n2", accelerators=2)],
            {},
            {(P, PlaceReason.NO_FREE_ACCELERATORS)},
            id="no-node-with-so-many-free",
        ),
        pytest.param((0, 3, 0), policy(budget=2), RACKS, {}, {(P, PlaceReason.QUOTA)}, id="budget"),
        pytest.param((0, 3, 0), policy(), RACKS, {"a100": 2}, {(P, PlaceReason.QUOTA)}, id="quota"),
        pytest.param(
            (0, 1, 1),
            policy(edges=(0, 1), hardware={E: ["a100"], P: ["a100"], D: ["h100"]}),
            [node("n1", domain="A"), node("n2", "h100", domain="B")],
            {},
            {(P, PlaceReason.GROUP_INCOMPLETE), (D, PlaceReason.GROUP_INCOMPLETE)},
            id="all-or-nothing",
        ),
    ],
)
def test_what_has_no_place_says_why(counts, its_policy, nodes, quotas, reasons):
    found = placed(counts, its_policy, nodes, quotas=quotas)
    assert {(c.stage, c.reason) for c in found.unplaced} == reasons
    assert not any(c.node_id for c in found.unplaced)


def test_no_prefill_without_decode():
    """All or nothing holds without a required level, too: one without the other is of no use."""
    found = placed((0, 1, 1), policy(hardware={E: ["a100"], P: ["a100"], D: ["h100"]}), [node("n1")])
    assert found.create == ()


def test_an_existing_group_is_completed_first():
    here = [replica(name, stage, "n1", group="g") for name, stage in (("p1", P), ("p2", P), ("d1", D))]
    nodes = [node("n1", accelerators=4, domain="A"), node("n2", accelerators=2, domain="B")]
    found = placed((0, 2, 2), policy(edges=(0, 1)), nodes, here)
    assert [(c.node_id, c.group, c.reason) for c in found.create] == [
        ("n1", "g", PlaceReason.COMPLETES_GROUP)
    ]


def test_a_new_group_where_hardware_is_less_scarce():
    """HeteroScale: the least scarce subgroup, even if that means a new deployment group."""
    nodes = [node("n1", domain="A"), node("n2", "h100", domain="A"), node("n3", domain="B")]
    here = [replica("p1", P, "n1", group="g"), replica("d1", D, "n1", group="g")]
    found = placed((0, 2, 2), policy(edges=(0, 1)), nodes, here)
    assert {(c.node_id, c.group, c.reason) for c in found.create} == {("n3", "s-0", PlaceReason.LESS_SCARCE)}


def test_freed_capacity_is_not_given_away_in_the_same_cycle():
    here = [replica("e1", E, "n1"), replica("p1", P, "n1"), replica("d1", D, "n1")]
    found = placed((0, 2, 2), policy(), [node("n1", accelerators=3)], here)
    assert [r.replica_id for r in found.remove] == ["e1"]
    assert {c.reason for c in found.unplaced} == {PlaceReason.NO_FREE_ACCELERATORS}


def test_prefill_does_not_grow_beyond_what_decode_takes_up():
    """With room for one of the two, neither comes."""
    here = [replica("p1", P, "n1"), replica("d1", D, "n1")]
    found = placed((0, 2, 2), policy(tp={E: 1, P: 1, D: 2}), [node("n1", accelerators=3)], here)
    assert found.create == ()
    assert [c.reason for c in found.unplaced if c.stage is P] == [PlaceReason.GROUP_INCOMPLETE]


@pytest.mark.parametrize(
    ("replicas", "gone", "reason"),
    [
        pytest.param(
            [
                replica("d1", D, "n1"),
                replica("d2", D, "n1", state=STARTING),
                replica("d3", D, "n1", state=PENDING),
            ],
            "d3",
            PlaceReason.NOT_STARTED,
            id="pending-first",
        ),
        pytest.param(
            [replica("d1", D, "n1"), replica("d2", D, "n1", state=STARTING), replica("d3", D, "n1")],
            "d2",
            PlaceReason.NOT_STARTED,
            id="then-starting",
        ),
        pytest.param(
            [replica("d1", D, "n3"), replica("d2", D, "n1", pending_units=9.0), replica("d3", D, "n3")],
            "d2",
            PlaceReason.SCARCEST,
            id="then-the-scarcest",
        ),
        pytest.param(
            [
                replica("d1", D, "n1", pending_units=5.0),
                replica("d2", D, "n1", pending_units=1.0),
                replica("d3", D, "n1", pending_units=3.0),
            ],
            "d2",
            PlaceReason.LEAST_WORK,
            id="then-the-least-work",
        ),
        pytest.param(
            [replica(f"d{i}", D, "n1") for i in (2, 1, 3)], "d1", PlaceReason.LEAST_WORK, id="ties-by-id"
        ),
    ],
)
def test_who_goes(replicas, gone, reason):
    nodes = [node("n1", domain="A"), node("n2", "h100", domain="A"), node("n3", domain="B")]
    found = placed((0, 0, 2), policy(), nodes, replicas)
    assert [(r.replica_id, r.reason) for r in found.remove] == [(gone, reason)]


def members(group, prefills, decodes):
    """Replicas of a group on the node of the same number."""
    return [
        replica(f"{stage}-{group}-{i}", stage, f"n{group}", group=f"g{group}")
        for stage, number in ((P, prefills), (D, decodes))
        for i in range(number)
    ]


def test_scale_in_keeps_groups_balanced():
    """The group that gives up a prefill replica also gives up the decode replicas it had for it."""
    nodes = [node("n1", domain="A"), node("n2", domain="B")]
    found = placed((0, 2, 4), policy(edges=(0, 1)), nodes, [*members(1, 2, 4), *members(2, 1, 2)])
    gone = [r.replica_id.split("-")[:2] for r in found.remove]
    assert len(gone) == 3
    assert len({group for _, group in gone}) == 1


def test_a_group_is_not_left_without_one_of_its_stages():
    """Of prefill alone one is too many: it goes where two are, even if elsewhere hardware is scarcer."""
    nodes = [node("n1", domain="A"), node("n2", domain="B"), node("n3", "h100", domain="B")]
    found = placed((0, 2, 4), policy(edges=(0, 1)), nodes, [*members(1, 2, 2), *members(2, 1, 2)])
    assert [r.replica_id for r in found.remove] == ["prefill-1-0"]


def test_what_waits_for_a_place_is_created_once():
    full = snapshot([node("n1", accelerators=1)])
    plans, policies = {"s": plan(0, 0, 3)}, {"s": policy()}
    changes = diff(place(plans, policies, full), full)
    assert [c.node_id for c in changes.create] == ["n1", "", ""]
    after = apply(changes, full)
    assert diff(place(plans, policies, after), after).create == ()
    roomy = replace(after, nodes=(*after.nodes, node("n2", accelerators=1)))
    again = diff(place(plans, policies, roomy), roomy)
    assert [(c.node_id, c.reason) for c in again.create] == [("n2", PlaceReason.EXTENDS_GROUP)]
    assert [r.reason for r in again.remove] == [PlaceReason.PLACED_ELSEWHERE]


def test_a_service_without_a_plan_is_left_alone():
    here = [replica("x", D, "n1", service="other", tp=8)]
    found = placed((0, 1, 1), policy(), [node("n1")], here)
    assert found.kept == {"x"}
    assert not found.create


def test_a_group_never_spans_clusters():
    """Clusters are the widest level: several are scheduled as one fleet."""
    nodes = [node("n1", accelerators=2, domain="A"), node("n2", accelerators=3, domain="B")]
    found = placed((1, 1, 1), policy(edges=(1, 1)), nodes)
    assert {c.domain for c in found.create} == {("B",)}


def test_created_replicas_are_pending_and_removed_ones_drain():
    before = snapshot([node("n1")], [replica("d1", D, "n1"), replica("d2", D, "n1")])
    found = place({"s": plan(0, 1, 1)}, {"s": policy()}, before)
    after = apply(diff(found, before), before)
    assert [(r.replica_id, r.state) for r in after.replicas] == [
        ("d1", ReplicaState.DRAINING),
        ("d2", READY),
        ("s-prefill-000000", PENDING),
    ]


def test_a_choice_carries_all_that_is_needed_to_make_it():
    found = placed((0, 1, 0), policy(), [node("n1", domain="A/x")])
    assert found.create == (
        Create(
            service="s",
            stage=P,
            hardware="a100",
            tp=1,
            node_id="n1",
            domain=("A", "x"),
            group="s-0",
            reason=PlaceReason.NEW_GROUP,
        ),
    )


def test_what_prefill_gives_up_becomes_what_decode_lacks():
    """On a full node, where a new decode replica would have to wait; without leave to switch it does."""
    full = snapshot(
        [node("n", accelerators=5)],
        [replica(f"p{i}", P, "n", group="s-0") for i in range(4)] + [replica("d0", D, "n", group="s-0")],
    )
    plans = {"s": plan(prefill=2, decode=3)}
    changes = diff(place(plans, {"s": policy(switch=True)}, full), full)
    assert [(s.replica_id, s.stage, s.to) for s in changes.switch] == [("p0", P, D), ("p1", P, D)]
    assert not changes.remove
    assert not changes.create
    without = diff(place(plans, {"s": policy()}, full), full)
    assert [len(each) for each in (without.remove, without.switch, without.create)] == [2, 0, 2]
    assert {create.node_id for create in without.create} == {""}


def test_the_last_prefill_of_a_group_does_not_leave_its_decodes_alone():
    """Where decode has to be near prefill, a decode replica is of no use in a group without prefill."""
    nodes = [node(f"n{i}", accelerators=2, domain=f"c/b/r{i}") for i in range(2)]
    replicas = [replica(f"{stage}{i}", stage, f"n{i}", group=f"s-{i}") for i in range(2) for stage in (P, D)]
    policies = {"s": policy(switch=True, edges=(0, 3))}
    assert not place({"s": plan(prefill=1, decode=3)}, policies, snapshot(nodes, replicas)).switch
