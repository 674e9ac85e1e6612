"""One controller of two clusters, each with its own ledger: faults of one are no fault of the other."""

import asyncio
import logging
import threading
from dataclasses import replace

import msgspec
import pytest

from orchestrator import federation
from orchestrator.control_policy import Hardware
from orchestrator.controller import Controller, ServicePolicy
from orchestrator.core.changes import Create
from orchestrator.core.counts import Backlog
from orchestrator.core.observed import Node
from orchestrator.core.orders import NodePool, is_order
from orchestrator.core.pools import Admit, Inform, Move, Pool, Scale
from orchestrator.federation import AWAY_S, Federation, MemberSource
from orchestrator.ports import ClusterUnavailable, ClusterView
from orchestrator.published import published
from orchestrator.totals import ServiceTotals
from stages.types import Stage
from tests.fakes.cluster import FakeCluster
from tests.fakes.ledger import FakeLedger
from tests.orchestrator.test_controller import POLICY, SERVICE

CLUSTERS = ("east", "west")


class Stand:
    """A controller of one service on two clusters, with the time in its hands.

    Args:
        counts: Replicas by stage that the policy asks for.
        nodes: Of eight accelerators, by cluster.
    """

    def __init__(self, tmp_path, counts, nodes):
        self.file = tmp_path / "policy.yaml"
        self.set_counts(*counts)
        service = ServicePolicy(self.file, Hardware.load())
        self.model, stages = service.model, service.current().stages
        pools = {Pool(SERVICE, stage, stages[stage].hardware[0]): stages[stage].tp for stage in Stage}
        self.clusters = {
            name: FakeCluster(
                nodes=tuple(
                    # Of one name in both: only the cluster tells them apart.
                    Node(node_id=f"n{n}", hardware="a100", accelerators=8)
                    for n in range(nodes[name])
                ),
                tp=dict(pools),
            )
            for name in CLUSTERS
        }
        self.ledgers = {name: FakeLedger() for name in CLUSTERS}
        self.now_s = 1_000.0
        self._services = {SERVICE: service}
        self.restart()

    def restart(self):
        sources = [MemberSource(name, ledger) for name, ledger in self.ledgers.items()]
        whole = Federation(self.clusters)
        clock = lambda: self.now_s  # noqa: E731
        self.controller = Controller(whole, sources, self._services, clock, clusters=CLUSTERS)

    def set_counts(self, encode, prefill, decode):
        """Edit the policy file."""
        lines = POLICY.read_text().splitlines()
        kept = [line for line in lines if line.partition(":")[0] not in ("scaling", "demand")]
        params = f"{{encode: {encode}, prefill: {prefill}, decode: {decode}}}"
        self.file.write_text("\n".join([*kept, f"scaling: {{policy: static, params: {params}}}", ""]))

    def ticks(self, number=4, *, heard=CLUSTERS):
        """Have the controller tick, and Kubernetes act after each; gateways and replicas live in `heard`."""

        async def run():
            for _ in range(number):
                for name in heard:
                    await self._hear(name)
                await self.controller.tick()
                for cluster in self.clusters.values():
                    cluster.settle()
                self.now_s += 5.0

        asyncio.run(run())

    async def _hear(self, name):
        waiting = dict.fromkeys(Stage, Backlog())
        count = ServiceTotals(dict.fromkeys(Stage, 1.0), self.now_s).count("g", self.now_s, waiting)
        ledger = self.ledgers[name]
        await ledger.greet("g", msgspec.json.encode(published(self.model, count)), True)
        for pod in self.clusters[name].pods.values():
            if pod.ready:
                facts = {"stage": pod.pool.stage, "model": self.model, "modalities": [], "kv_bytes": 0}
                facts |= {"hardware": pod.pool.hardware, "domain": []}
                ledger.register(f"{pod.name}.1", msgspec.json.encode(facts), 8, 0)
                ledger.renew(f"{pod.name}.1", msgspec.json.encode({"busy_s": 0.0}))

    def ready(self, name):
        found = dict.fromkeys(Stage, 0)
        for pod in self.clusters[name].pods.values():
            found[pod.pool.stage] += pod.ready
        return tuple(found.values())

    def in_all(self):
        return tuple(map(sum, zip(*map(self.ready, CLUSTERS), strict=True)))

    def share(self, name):
        labels = {"tercet_service": SERVICE, "cluster": name}
        return self.controller.metrics.registry.get_sample_value("tercet:controller_cluster_share", labels)


def test_what_has_no_room_in_one_cluster_is_in_the_other_whole_and_shrinks_again(tmp_path):
    """Nothing of a group is in two clusters, though nodes and groups are called alike in both."""
    stand = Stand(tmp_path, (4, 4, 4), {"east": 1, "west": 1})
    stand.ticks()
    assert stand.in_all() == (4, 4, 4)
    groups = {name: {pod.group for pod in stand.clusters[name].pods.values()} for name in CLUSTERS}
    assert groups["east"]
    assert groups["west"]
    assert not groups["east"] & groups["west"]
    assert all(min(stand.ready(name)) >= 1 for name in CLUSTERS)
    assert stand.share("east") + stand.share("west") == pytest.approx(1.0)
    assert 0.0 < stand.share("east") < 1.0
    stand.set_counts(1, 1, 1)
    stand.ticks(1)
    assert sorted(map(stand.share, CLUSTERS)) == [0.0, 1.0], "told before the first replica goes"
    stand.ticks()
    assert sorted(map(stand.ready, CLUSTERS)) == [(0, 0, 0), (1, 1, 1)]


def test_a_share_is_told_when_it_changes(tmp_path, caplog):
    stand = Stand(tmp_path, (1, 1, 1), {"east": 1, "west": 0})
    with caplog.at_level(logging.INFO):
        stand.ticks(6)
    told = [record.shares for record in caplog.records if record.getMessage() == "shares"]
    assert told == [{SERVICE: {"east": 0.0, "west": 0.0}}, {SERVICE: {"east": 1.0, "west": 0.0}}]


def test_a_cluster_that_is_away_counts_as_it_was_and_nothing_shrinks(tmp_path):
    """Neither there nor elsewhere; what is wanted more comes where there is somebody to ask."""
    stand = Stand(tmp_path, (4, 4, 4), {"east": 1, "west": 1})
    stand.ticks()
    before = {name: stand.ready(name) for name in CLUSTERS}
    stand.clusters["east"].away = True
    stand.set_counts(2, 2, 2)
    stand.ticks()
    assert {name: stand.ready(name) for name in CLUSTERS} == before
    stand.set_counts(4, 5, 5)
    stand.ticks()
    assert stand.ready("east") == before["east"]
    assert stand.in_all() == (4, 5, 5)
    assert stand.share("east") > 0.0


def test_a_cluster_that_stays_away_is_replaced_and_taken_back(tmp_path):
    stand = Stand(tmp_path, (2, 2, 2), {"east": 1, "west": 0})
    stand.ticks()
    assert stand.ready("east") == (2, 2, 2)
    west = stand.clusters["west"]
    west.nodes = stand.clusters["east"].nodes
    stand.clusters["east"].away = True
    stand.now_s += AWAY_S - 25.0
    stand.ticks()
    assert stand.ready("west") == (0, 0, 0)
    stand.now_s += AWAY_S
    stand.ticks()
    assert stand.ready("west") == (2, 2, 2)
    assert (stand.share("east"), stand.share("west")) == (0.0, 1.0)
    assert {p.group for p in west.pods.values()}.isdisjoint(
        {p.group for p in stand.clusters["east"].pods.values()}
    ), "who comes back finds no stranger in its groups"
    stand.clusters["east"].away = False
    stand.ticks(6)
    assert stand.in_all() == (2, 2, 2)


def test_a_controller_that_does_not_know_a_cluster_yet_waits_for_it_and_then_goes_on(tmp_path):
    """What runs there would be started elsewhere a second time."""
    stand = Stand(tmp_path, (1, 1, 1), {"east": 1, "west": 1})
    stand.ticks()
    stand.clusters["east"].away = True
    stand.restart()
    with pytest.raises(ClusterUnavailable, match="not seen yet: east"):
        stand.ticks(1)
    stand.now_s += AWAY_S
    stand.ticks()
    assert stand.ready("west") == (1, 1, 1)


def test_while_no_cluster_can_be_seen_nothing_is_decided(tmp_path):
    stand = Stand(tmp_path, (1, 1, 1), {"east": 1, "west": 1})
    stand.ticks()
    for cluster in stand.clusters.values():
        cluster.away = True
    with pytest.raises(ClusterUnavailable, match="no cluster can be seen"):
        stand.ticks(1)


def test_a_ledger_that_is_away_is_a_missing_signal_of_its_cluster(tmp_path):
    """Its replicas are unheard: nothing shrinks, and what is wanted more comes all the same."""
    stand = Stand(tmp_path, (4, 4, 4), {"east": 1, "west": 1})
    stand.ticks()
    before = {name: stand.ready(name) for name in CLUSTERS}
    stand.ledgers["east"].away = True
    stand.now_s += 60.0
    stand.set_counts(1, 1, 1)
    stand.ticks(heard=["west"])
    assert {name: stand.ready(name) for name in CLUSTERS} == before
    stand.set_counts(5, 5, 5)
    stand.ticks(heard=["west"])
    assert stand.in_all() == (5, 5, 5)
    stand.ledgers["east"].away = False
    stand.set_counts(1, 1, 1)
    stand.ticks()
    assert sorted(map(stand.ready, CLUSTERS)) == [(0, 0, 0), (1, 1, 1)]


def test_a_step_that_fails_holds_up_no_other_cluster(tmp_path):
    """Nor is the cluster asked again before it was seen again."""
    stand = Stand(tmp_path, (4, 4, 4), {"east": 1, "west": 1})
    asked = []

    def refuse(scale):
        asked.append(scale)
        raise ClusterUnavailable("no")

    works, stand.clusters["east"].scale = stand.clusters["east"].scale, refuse
    stand.ticks(1)
    assert len(asked) == 1
    assert min(stand.clusters["west"].counts.values()) >= 1
    stand.clusters["east"].scale = works
    stand.ticks()
    assert stand.in_all() == (4, 4, 4)


class Told(FakeCluster):
    """Keeps what it is asked for."""

    def __post_init__(self):
        super().__post_init__()
        self.heard = []

    def admit(self, admit, now_s):
        self.heard.append((admit, now_s))

    def move(self, move, now_s):
        self.heard.append((move, now_s))

    def inform(self, inform):
        self.heard.append(inform)

    def scale(self, scale):
        self.heard.append(scale)


POOL = Pool("s", Stage.PREFILL, "a100")


def create(node_id, *domain):
    return Create(service="s", stage=Stage.PREFILL, hardware="a100", tp=1, node_id=node_id, domain=domain)


def test_a_cluster_is_asked_in_its_own_words():
    told = Told(nodes=(), tp={POOL: 1})
    whole = Federation({"east": told, "west": FakeCluster(nodes=(), tp={})})
    whole.look(0.0)
    whole.scale(Scale(pool=POOL._replace(cluster="east"), replicas=2, victims=("east:p",)))
    whole.admit(Admit(pod="east:p", create=create("east:some/3", "east", "some/3")), 7.0)
    whole.move(Move(pod="east:p", stands_for="east:q"), 8.0)
    whole.inform(Inform(pod="east:p", domain=("east", "r1")))
    assert told.heard == [
        Scale(pool=POOL, replicas=2, victims=("p",)),
        (Admit(pod="p", create=create("some/3", "some/3")), 7.0),
        (Move(pod="p", stands_for="q"), 8.0),
        Inform(pod="p", domain=("r1",)),
    ]


def test_what_could_be_ordered_is_offered_under_the_name_of_its_cluster():
    pool = NodePool(name="some", hardware="a100", accelerators=8, most=2)
    one = FakeCluster(nodes=(), tp={POOL: 1}, node_pools=(pool,), depth=1)
    seen = Federation({"east": one, "west": replace(one)}).look(0.0)
    assert seen.orders == {"east:some": 2, "west:some": 2}
    assert {(node.node_id, node.domain, node.node_pool) for node in seen.nodes} == {
        (f"{at}:some/{n}", (at, f"some/{n}"), f"{at}:some") for at in CLUSTERS for n in range(2)
    }
    assert all(is_order(node.node_id) for node in seen.nodes)
    assert seen.counts == {POOL._replace(cluster=at): 0 for at in CLUSTERS}


def test_an_answer_that_comes_late_is_taken_at_the_next_look(monkeypatch, caplog):
    """Nobody else waits for it, and no second one is asked for meanwhile."""
    monkeypatch.setattr(federation, "ANSWER_S", 0.05)
    come, asked = threading.Event(), []

    class Slow(FakeCluster):
        def look(self, now_s):
            asked.append(now_s)
            come.wait(30.0)
            return super().look(now_s)

    whole = Federation({"east": Slow(nodes=(), tp={POOL: 1}), "west": FakeCluster(nodes=(), tp={POOL: 1})})
    with pytest.raises(ClusterUnavailable, match="not seen yet: east"):
        whole.look(0.0)
    with pytest.raises(ClusterUnavailable, match="not seen yet: east"):
        whole.look(5.0)
    come.set()
    monkeypatch.setattr(federation, "ANSWER_S", 30.0)
    assert whole.look(10.0) == ClusterView(counts={POOL._replace(cluster=at): 0 for at in CLUSTERS})
    assert asked == [0.0]
    assert "cluster east has not answered" in caplog.text


def test_gateways_and_replicas_of_one_name_in_two_clusters_are_two():
    """Their counters too, or what one counted would be taken for the other's."""

    async def run():
        ledger = FakeLedger()
        await ledger.greet("g", msgspec.json.encode({"count": {"counter": "g"}, "waiting": {}}), True)
        await ledger.greet("old", msgspec.json.encode({"waiting": {}}), True)
        facts = {"stage": "decode", "model": "m", "modalities": [], "hardware": "a100", "domain": []}
        ledger.register("p.1", msgspec.json.encode({**facts, "kv_bytes": 0}), 8, 0)
        return await MemberSource("east", ledger).snapshot()

    seen = asyncio.run(run())
    assert seen.gateways == {
        "east:g": {"count": {"counter": "east:g"}, "waiting": {}},
        "east:old": {"waiting": {}},
    }
    assert [entry.replica.replica_id for entry in seen.replicas] == ["east:p.1"]
