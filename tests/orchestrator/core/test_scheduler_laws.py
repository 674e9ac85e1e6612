"""Laws of placement, for any fleet, services, plans and replicas that happen to be there."""

from collections import Counter, defaultdict
from dataclasses import replace
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.changes import PlaceReason
from orchestrator.core.hardware import weight
from orchestrator.core.observed import ReplicaState, Snapshot
from orchestrator.core.orders import orderable
from orchestrator.core.scheduler import apply, diff, place
from stages.types import Stage
from tests.orchestrator.core import fleets

REMOVALS = {
    PlaceReason.NOT_STARTED,
    PlaceReason.PLACED_ELSEWHERE,
    PlaceReason.UNBALANCED,
    PlaceReason.SCARCEST,
    PlaceReason.LEAST_WORK,
}
PLACED = {
    PlaceReason.NEW_GROUP,
    PlaceReason.LESS_SCARCE,
    PlaceReason.COMPLETES_GROUP,
    PlaceReason.EXTENDS_GROUP,
}
UNPLACED = {
    PlaceReason.NO_PROFILE,
    PlaceReason.NO_DOMAIN,
    PlaceReason.NO_FREE_ACCELERATORS,
    PlaceReason.QUOTA,
    PlaceReason.GROUP_INCOMPLETE,
}


class Situation(NamedTuple):
    """Arguments of `place`, with a short text."""

    plans: dict
    policies: dict
    snapshot: Snapshot

    def __repr__(self):
        counts = {name: [s.replicas for s in plan.stages.values()] for name, plan in self.plans.items()}
        services = [
            f"{name}: {p.edges} budget {p.budget} "
            + ", ".join(f"{stage} tp{b.tp} {b.hardware}" for stage, b in p.stages.items())
            for name, p in self.policies.items()
        ]
        nodes = [
            f"{n.node_id} {n.accelerators} {n.hardware} {'/'.join(n.domain)} {'' if n.ready else 'not ready'}"
            for n in self.snapshot.nodes
        ]
        replicas = [
            f"{r.replica_id} tp{r.tp} {r.hardware} {r.node_id} {r.group} {r.state}"
            for r in self.snapshot.replicas
        ]
        limits = [str(self.snapshot.quotas), str(self.snapshot.orders)]
        return "\n".join([str(counts), *services, *nodes, *replicas, *limits])


@st.composite
def situations(draw):
    """The replicas there are what some former plan led to, some of them aged."""
    policies = draw(fleets.policies())
    nodes = draw(fleets.nodes())
    ordered, orders = orderable(draw(fleets.node_pools()), (), (), depth=3)
    strays = draw(fleets.strays(policies, nodes)) if draw(st.sampled_from([False, False, True])) else ()
    quotas = draw(st.sampled_from([{}, {}, {"h100": 6}, {"a100": 0}]))
    snapshot = fleets.snapshot((*nodes, *ordered), strays, quotas=quotas, orders=orders)
    for _ in range(draw(st.integers(0, 2))):
        snapshot = settled(draw(fleets.plans(policies)), policies, snapshot)
        snapshot = replace(snapshot, replicas=tuple([_aged(draw, r) for r in snapshot.replicas]))
    return Situation(draw(fleets.plans(policies)), policies, snapshot)


def _aged(draw, replica):
    state = replica.state
    if state is not ReplicaState.DRAINING and replica.node_id:
        state = draw(st.sampled_from(ReplicaState))
    return replace(replica, state=state, pending_units=float(draw(st.integers(0, 3))))


def settled(plans, policies, snapshot):
    return apply(diff(place(plans, policies, snapshot), snapshot), snapshot)


def facts(snapshot):
    """What is where, without ids."""
    return Counter(
        (r.service, r.stage, r.hardware, r.tp, r.node_id, r.group)
        for r in snapshot.replicas
        if r.state is not ReplicaState.DRAINING
    )


@given(situations())
def test_no_node_holds_more_than_it_has(situation):
    """Law 1: nothing new goes to a node that is not ready, of another type, or without so many left."""
    plans, policies, snapshot = situation
    used = Counter()
    for replica in snapshot.replicas:
        used[replica.node_id] += replica.tp
    by_id = {node.node_id: node for node in snapshot.nodes}
    for create in place(plans, policies, snapshot).create:
        node = by_id[create.node_id]
        used[create.node_id] += create.tp
        assert node.ready
        assert (node.hardware, node.domain) == (create.hardware, create.domain)
        assert used[create.node_id] <= node.accelerators


@given(situations())
def test_groups_keep_the_levels_that_edges_require(situation):
    """Law 2: what is created shares the required levels with every partner in its group."""
    plans, policies, snapshot = situation
    placement = place(plans, policies, snapshot)
    domains = {node.node_id: node.domain for node in snapshot.nodes}
    groups = defaultdict(list)
    for each in (*placement.create, *[r for r in snapshot.replicas if r.replica_id in placement.kept]):
        if each.node_id:
            groups[each.service, each.group].append(each)
    for create in placement.create:
        edges = policies[create.service].edges
        for ends, level in (
            ({Stage.ENCODE, Stage.PREFILL}, edges.encode_prefill),
            ({Stage.PREFILL, Stage.DECODE}, edges.prefill_decode),
        ):
            for other in groups[create.service, create.group]:
                if {create.stage, other.stage} == ends:
                    assert len(create.domain) >= level
                    assert domains.get(other.node_id, ())[:level] == create.domain[:level]


@given(situations())
def test_a_new_group_has_prefill_and_decode_or_is_not_there(situation):
    """Law 3: all or nothing; where no level is required, its partner may be in another group."""
    plans, policies, snapshot = situation
    after = settled(plans, policies, snapshot)
    old = {(r.service, r.group) for r in snapshot.replicas}
    new = defaultdict(set)
    for create in place(plans, policies, snapshot).create:
        if (create.service, create.group) not in old:
            new[create.service, create.group].add(create.stage)
    for (service, _), stages in new.items():
        planned = {s for s in (Stage.PREFILL, Stage.DECODE) if plans[service].stages[s].replicas}
        anywhere = {r.stage for r in after.replicas if r.service == service and r.node_id}
        near = policies[service].edges.prefill_decode > 0
        assert planned <= (stages if near else anywhere)


@given(situations())
def test_budgets_and_quotas_hold(situation):
    """Law 4: no replica is created beyond a service's budget or a type's quota, drains counted."""
    plans, policies, snapshot = situation
    creates = place(plans, policies, snapshot).create
    spent, of_type = Counter(), Counter()
    for each in (*snapshot.replicas, *creates):
        if each.node_id:
            spent[each.service] += each.tp
            of_type[each.hardware] += each.tp
    for create in creates:
        budget = policies[create.service].budget
        assert budget is None or spent[create.service] <= budget
        assert of_type[create.hardware] <= snapshot.quotas.get(create.hardware, 1 << 30)


@given(situations())
def test_placing_again_changes_nothing(situation):
    """Law 5: level-based and idempotent; where a node pool's limit was met, what it has left goes next."""
    plans, policies, snapshot = situation
    after = settled(plans, policies, snapshot)
    for _ in range(sum(snapshot.orders.values())):
        after = settled(plans, policies, after)
    again = diff(place(plans, policies, after), after)
    assert (again.remove, again.switch, again.create) == ((), (), ())


@given(situations())
def test_the_difference_applied_is_the_placement(situation):
    """Law 6: what stays, what is created and what waits for a place, nothing else."""
    plans, policies, snapshot = situation
    placement = place(plans, policies, snapshot)
    after = apply(diff(placement, snapshot), snapshot)
    wanted = facts(
        replace(snapshot, replicas=[r for r in snapshot.replicas if r.replica_id in placement.kept])
    )
    roles = {switch.replica_id: switch.to for switch in placement.switch}
    wanted.update(
        facts(
            replace(
                snapshot,
                replicas=[
                    replace(r, stage=roles[r.replica_id]) for r in snapshot.replicas if r.replica_id in roles
                ],
            )
        )
    )
    wanted.update((c.service, c.stage, c.hardware, c.tp, c.node_id, c.group) for c in placement.create)
    homeless = Counter((c.service, c.stage, c.hardware, c.tp, "", "") for c in placement.unplaced)
    placed = Counter({fact: n for fact, n in wanted.items() if fact[4]})
    assert facts(after) == placed + homeless


@given(situations(), st.randoms(use_true_random=False))
def test_order_of_inputs_does_not_matter(situation, rng):
    """Law 7: the same placement for any order of nodes, replicas, plans and policies."""
    plans, policies, snapshot = situation
    nodes, replicas = list(snapshot.nodes), list(snapshot.replicas)
    rng.shuffle(nodes)
    rng.shuffle(replicas)
    shuffled = replace(snapshot, nodes=tuple(nodes), replicas=tuple(replicas))
    plans_back, policies_back = (dict(reversed(each.items())) for each in (plans, policies))
    assert place(plans_back, policies_back, shuffled) == place(plans, policies, snapshot)


@given(situations())
def test_capacity_is_what_was_planned(situation):
    """Law 8: at least the plan where nothing is unplaced, and never more by a whole replica of any kind."""
    plans, policies, snapshot = situation
    placement = place(plans, policies, snapshot)
    after = apply(diff(placement, snapshot), snapshot)
    missing = Counter((c.service, c.stage) for c in placement.unplaced)
    for service, policy in policies.items():
        for stage in Stage:
            weights = [
                weight(policy, stage, r.hardware, r.tp)
                for r in after.replicas
                if (r.service, r.stage) == (service, stage)
                and r.node_id
                and r.state is not ReplicaState.DRAINING
            ]
            planned = plans[service].stages[stage].replicas
            assert sum(weights) + missing[service, stage] >= planned - 1e-6
            assert sum(weights) < planned + max(weights, default=1e-3)


@given(
    hardware=st.lists(fleets.HARDWARE, min_size=1, max_size=3, unique=True),
    here=st.sampled_from(["a100", "h100", "l4"]),
    room=st.integers(0, 9),
    edges=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    counts=st.tuples(*[st.integers(1, 9)] * 3),
)
def test_a_service_starts_wherever_one_replica_of_each_stage_fits(hardware, here, room, edges, counts):
    """Law 11: on any class that its policy names, however weak, and though the plan asks for more."""
    its_policy = fleets.policy(hardware=hardware, edges=edges)
    nodes = [fleets.node("n", here, accelerators=room, domain="c/b/1")]
    found = place({"s": fleets.plan(*counts)}, {"s": its_policy}, fleets.snapshot(nodes))
    started = {create.stage for create in found.create if create.node_id}
    if here not in hardware or room < 2:
        assert not started & {Stage.PREFILL, Stage.DECODE}
    else:
        assert started >= {Stage.PREFILL, Stage.DECODE}
        assert (Stage.ENCODE in started) == (room > 2)


@given(
    nodes=fleets.nodes(),
    hardware=st.lists(fleets.HARDWARE, min_size=1, max_size=3, unique=True),
    near=st.integers(0, 2),
    counts=st.tuples(*[st.integers(1, 60)] * 3),
)
def test_no_stage_takes_all_the_room_from_encode(nodes, hardware, near, counts):
    """Law 14: where encode may be anywhere, it has a replica before prefill or decode has a second one."""
    its_policy = fleets.policy(hardware=hardware, edges=(0, near))
    found = place({"s": fleets.plan(*counts)}, {"s": its_policy}, fleets.snapshot(nodes))
    created = Counter(create.stage for create in found.create)
    if max(created[Stage.PREFILL], created[Stage.DECODE]) > 1:
        assert created[Stage.ENCODE]


@given(situations())
def test_every_choice_has_its_reason(situation):
    """Law 9: from the closed set, of the right kind."""
    placement = place(*situation)
    assert {each.reason for each in placement.remove} <= REMOVALS
    assert {each.reason for each in placement.create} <= PLACED
    assert {each.reason for each in placement.unplaced} <= UNPLACED


@given(situations())
def test_what_drains_is_left_alone(situation):
    """Law 10: replicas that drain are neither kept nor removed, and replicas of others are kept."""
    plans, policies, snapshot = situation
    placement = place({}, policies, snapshot)
    alive = {r.replica_id for r in snapshot.replicas if r.state is not ReplicaState.DRAINING}
    assert placement.kept == alive
    assert not (placement.remove or placement.create or placement.unplaced)
    full = place(plans, policies, snapshot)
    removed, moved = ({each.replica_id for each in changed} for changed in (full.remove, full.switch))
    assert removed | moved | full.kept == alive
    assert len(removed) + len(moved) + len(full.kept) == len(alive)


@given(situations())
def test_what_takes_another_role_could_have_been_put_there(situation):
    """Law 11: where the engine can, between prefill and decode of one size, on nodes that take replicas."""
    plans, policies, snapshot = situation
    replicas = {r.replica_id: r for r in snapshot.replicas}
    ready = {node.node_id for node in snapshot.nodes if node.ready}
    for switch in place(plans, policies, snapshot).switch:
        replica, policy = replicas[switch.replica_id], policies[switch.service]
        bounds = policy.stages[switch.to]
        assert policy.switches_roles
        assert {switch.stage, switch.to} == {Stage.PREFILL, Stage.DECODE}
        assert (replica.stage, replica.state) == (switch.stage, ReplicaState.READY)
        assert replica.node_id in ready
        assert replica.hardware in bounds.hardware
        assert replica.tp == bounds.tp


@given(situations())
def test_no_pool_is_asked_for_more_nodes_than_it_makes(situation):
    """Law 12: whatever is on order already, and however often it is placed again."""
    plans, policies, after = situation
    for _ in range(3):
        after = settled(plans, policies, after)
        held = {replica.node_id for replica in after.replicas}
        ordered = Counter(node.node_pool for node in after.nodes if node.node_pool and node.node_id in held)
        assert all(ordered[pool] <= most for pool, most in after.orders.items())


@given(situations())
def test_nothing_is_ordered_for_what_fits_on_nodes_that_exist(situation):
    """Law 13: unless where things are scarce is judged otherwise with the new nodes."""
    plans, policies, snapshot = situation
    there = replace(snapshot, nodes=tuple(node for node in snapshot.nodes if not node.node_pool))
    without = place(plans, policies, there)
    if not without.unplaced:
        ordered = {node.node_id for node in snapshot.nodes if node.node_pool}
        assert not [create for create in place(plans, policies, snapshot).create if create.node_id in ordered]
