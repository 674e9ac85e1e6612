import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.topology import Topology, below
from tests.orchestrator.core import fleets
from tests.orchestrator.core.fleets import node


def topology(*nodes, used=None, sizes=(1, 2, 4, 8)):
    return Topology(nodes, used or {}, sizes)


@pytest.mark.parametrize(
    ("types", "path", "scarcity"),
    [
        pytest.param({"A/x": ["a100"], "A/y": ["a100"], "B/x": ["h100"]}, "A", 0, id="low"),
        pytest.param({"A/x": ["a100"], "A/y": ["a100"], "B/x": ["h100"]}, "A/x", 0, id="part-of-low"),
        pytest.param({"A/x": ["a100"], "A/y": ["h100"]}, "A", 1, id="medium"),
        pytest.param({"A/x": ["a100"], "A/y": ["h100"]}, "A/y", 1, id="part-of-medium"),
        pytest.param({"A/x": ["a100", "h100"], "A/y": ["h100", "a100"]}, "A", 2, id="high"),
        pytest.param({"A/x": ["a100", "h100"], "A/y": ["h100"]}, "A/x", 2, id="mixed-part"),
        pytest.param({"A/x": ["a100", "h100"], "A/y": ["h100"]}, "A", 1, id="as-its-best-part"),
        pytest.param({"A/x/1": ["a100", "h100"]}, "A/x/1", 3, id="three-levels"),
        pytest.param({"": ["a100", "h100"]}, "", 0, id="no-levels"),
    ],
)
def test_scarcity(types, path, scarcity):
    """HeteroScale's classes, arXiv 2508.19559, for any number of levels."""
    nodes = [
        node(f"{domain}-{i}", hardware, domain=tuple(filter(None, domain.split("/"))))
        for domain, each in types.items()
        for i, hardware in enumerate(each)
    ]
    assert topology(*nodes).find(tuple(filter(None, path.split("/")))).scarcity == scarcity


def test_nodes_that_are_not_ready_count_for_scarcity_and_have_nothing_free():
    tree = topology(node("a", domain="A"), node("b", "h100", domain="A", ready=False))
    assert tree.find(("A",)).scarcity == 1
    assert tree.slots(tree.root, "h100", 1) == 0


def test_slots_are_of_whole_replicas_on_one_node():
    tree = topology(node("a", domain="A/x"), node("b", domain="A/y"), used={"a": 3, "b": 7})
    assert [tree.slots(tree.find(("A",)), "a100", size) for size in (1, 2, 4, 8)] == [6, 2, 1, 0]


def test_fragmentation_is_what_the_largest_size_cannot_use():
    tree = topology(node("a"), node("b"), used={"a": 4, "b": 3}, sizes=(1, 4))
    assert tree.fragmentation(tree.root, "a100") == pytest.approx(1 / 9)
    assert tree.fragmentation(tree.root, "h100") == 0.0


@pytest.mark.parametrize(
    ("count", "taken"),
    [
        pytest.param(1, ["b"], id="tightest"),
        pytest.param(2, ["c", "c"], id="together-in-the-fullest-domain"),
        pytest.param(3, ["c", "c", "b"], id="then-what-is-left"),
        pytest.param(9, None, id="too-many"),
    ],
)
def test_take(count, taken):
    nodes = [
        node("a", accelerators=16, domain="A/1"),
        node("b", accelerators=2, domain="A/2"),
        node("c", accelerators=4, domain="A/3"),
        node("d", "h100", domain="A/4"),
    ]
    tree = topology(*nodes[1:], nodes[0] if count == 1 else node("z", accelerators=2, domain="A/9"))
    found = tree.take(tree.root, "a100", 2, count)
    assert found == taken


def test_the_least_scarce_is_taken_first():
    tree = topology(
        node("a", domain="A/1"),
        node("b", "h100", domain="A/1"),
        node("c", domain="B/1"),
        node("d", domain="B/2"),
    )
    assert tree.take(tree.root, "a100", 8, 2) == ["c", "d"]
    assert tree.take(tree.root, "a100", 8, 1) == ["a"]


@given(fleets.nodes(), st.lists(st.tuples(st.sampled_from([1, 2, 4]), st.integers(1, 4)), max_size=8))
def test_domains_add_up_and_an_undone_take_leaves_no_trace(nodes, takes):
    """Slots of a domain are those of its parts and own nodes; `give_back` undoes `take`."""
    tree = Topology(nodes, {}, (1, 2, 4))
    before, orders = _slots(tree, nodes), _worked_out(tree, nodes)
    done = [(tree.take(tree.root, "a100", size, count), size) for size, count in takes]
    left = {n.node_id: n.accelerators if n.ready else 0 for n in nodes}
    for found, size in done:
        for node_id in found or ():
            left[node_id] -= size
    assert min(left.values()) >= 0
    fresh = Topology(nodes, {n.node_id: n.accelerators - left[n.node_id] for n in nodes}, (1, 2, 4))
    assert _slots(tree, nodes) == _slots(fresh, nodes)
    assert _worked_out(tree, nodes) == _worked_out(fresh, nodes)
    for found, size in reversed(done):
        tree.give_back(found or (), size)
    assert _slots(tree, nodes) == before
    assert _worked_out(tree, nodes) == orders


def _worked_out(tree, nodes):
    """What is kept up once it was asked for: peaks, and the order in which domains fill."""
    types = tuple(sorted({n.hardware for n in nodes}))
    levels = range(tree.depth + 1)
    peaks = [tree.peak(tree.root, level, h, s) for level in levels for h in types for s in tree.sizes]
    inner = [domain for level in levels for domain in below(tree.root, level)]
    return peaks, [
        [c.path for c in tree.fullest_first(d, types, least)] for d in inner for least in (0, 1, 4)
    ]


def _slots(tree, nodes):
    paths = {n.domain[:depth] for n in nodes for depth in range(len(n.domain) + 1)}
    types = {n.hardware for n in nodes}
    return {(p, h, s): tree.slots(tree.find(p), h, s) for p in paths for h in types for s in tree.sizes}


def test_domains_of_a_level_inside_another():
    tree = topology(node("a", domain="A/x"), node("b", domain="A/y"), node("c", domain="B/x"))
    assert [d.path for d in below(tree.find(("A",)), 2)] == [("A", "x"), ("A", "y")]
