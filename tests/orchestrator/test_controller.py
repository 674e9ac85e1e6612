"""The controller's loop on a fake cluster: faults, edits, and replicas of which nothing is heard."""

import asyncio
import logging

import msgspec
import pytest

from orchestrator.control_policy import Hardware
from orchestrator.controller import Controller, ServicePolicy
from orchestrator.core.counts import Backlog
from orchestrator.core.observed import Node
from orchestrator.core.orders import NodePool
from orchestrator.core.pools import Pool
from orchestrator.core.signals import STALE_S
from orchestrator.ports import ClusterUnavailable
from orchestrator.published import published
from orchestrator.totals import ServiceTotals
from stages.types import Stage
from tests.fakes.cluster import FakeCluster
from tests.fakes.ledger import FakeLedger
from tests.system.harness import ROOT

SERVICE = "small-replicas"
POLICY = ROOT / "policies" / "examples" / f"{SERVICE}.yaml"


class Stand:
    """A controller of one service on the second of two shards, with the time in its hands."""

    def __init__(self, tmp_path, counts, **options):
        self.file = tmp_path / "policy.yaml"
        self._text = POLICY.read_text()
        self.set_counts(*counts)
        service = ServicePolicy(self.file, Hardware.load())
        bounds = service.current().stages
        self.name, self.model, self.policy = service.current().service, service.model, service
        pools = {Pool(self.name, stage, bounds[stage].hardware[0]): bounds[stage].tp for stage in Stage}
        nodes = tuple(
            Node(node_id=f"{hardware}-{n}", hardware=hardware, accelerators=8, domain=self._domain(service))
            for hardware in sorted({pool.hardware for pool in pools})
            for n in range(2)
        )
        self.cluster = FakeCluster(nodes=nodes, tp=pools)
        self.ledger, self.elsewhere = FakeLedger(), FakeLedger()
        self.now_s = 1_000.0
        services = {self.name: service}
        ledgers = [self.elsewhere, self.ledger]
        self.controller = Controller(self.cluster, ledgers, services, lambda: self.now_s, **options)

    @staticmethod
    def _domain(service):
        return tuple(f"{level}-0" for level in range(len(service.current().levels)))

    def set_counts(self, encode, prefill, decode):
        """Edit the policy file."""
        lines = [
            line for line in self._text.splitlines() if line.partition(":")[0] not in ("scaling", "demand")
        ]
        params = f"{{encode: {encode}, prefill: {prefill}, decode: {decode}}}"
        self.file.write_text("\n".join([*lines, f"scaling: {{policy: static, params: {params}}}", ""]))

    def ticks(self, number=4, *, heard=True):
        """Have the controller tick, and Kubernetes act after each."""

        async def run():
            for _ in range(number):
                if heard:
                    await self._hear()
                await self.controller.tick()
                self.cluster.settle()
                self.now_s += 5.0

        asyncio.run(run())

    async def _hear(self):
        waiting = dict.fromkeys(Stage, Backlog())
        count = ServiceTotals(dict.fromkeys(Stage, 1.0), self.now_s).count("g", self.now_s, waiting)
        report = msgspec.json.encode(published(self.model, count))
        await self.ledger.greet("g", report, True)
        for pod in self.cluster.pods.values():
            if pod.ready:
                facts = {"stage": pod.pool.stage, "model": self.model, "modalities": [], "kv_bytes": 0}
                facts |= {"hardware": pod.pool.hardware, "domain": []}
                self.ledger.register(f"{pod.name}.1", msgspec.json.encode(facts), 8, 0)
                self.ledger.renew(f"{pod.name}.1", msgspec.json.encode({"busy_s": 0.0}))

    def ready(self):
        found = dict.fromkeys(Stage, 0)
        for pod in self.cluster.pods.values():
            found[pod.pool.stage] += pod.ready
        return tuple(found.values())


def test_a_service_is_brought_up_edited_and_brought_down(tmp_path):
    stand = Stand(tmp_path, (1, 1, 2))
    stand.ticks()
    assert stand.ready() == (1, 1, 2)
    stand.set_counts(2, 1, 1)
    stand.ticks()
    assert stand.ready() == (2, 1, 1)


def test_without_nodes_they_are_ordered(tmp_path):
    """Nothing runs until they are made, and nothing more is asked for meanwhile."""
    stand = Stand(tmp_path, (1, 1, 2))
    kinds = {node.hardware for node in stand.cluster.nodes}
    stand.cluster.nodes, stand.cluster.depth = (), len(stand.policy.current().levels)
    stand.cluster.node_pools = tuple(
        NodePool(name=f"some-{kind}", hardware=kind, accelerators=8, most=1) for kind in sorted(kinds)
    )
    stand.ticks(8)
    assert stand.ready() == (0, 0, 0)
    assert {pod.node_id for pod in stand.cluster.pods.values()} == {f"some-{kind}/0" for kind in kinds}
    stand.cluster.make()
    stand.ticks(1)
    assert stand.ready() == (1, 1, 2)


def test_plans_can_be_scraped(tmp_path):
    """What is wanted of each stage, and how often for which reason."""
    stand = Stand(tmp_path, (1, 1, 2))
    stand.ticks(3)
    registry = stand.controller.metrics.registry
    labels = {"tercet_service": SERVICE, "stage": "decode"}
    assert registry.get_sample_value("tercet:controller_replicas_wanted", labels) == 2
    told = [s for m in registry.collect() for s in m.samples if s.name == "tercet:controller_decision_total"]
    assert sum(s.value for s in told if s.labels["stage"] == "decode") == 3


def test_an_edit_that_is_wrong_is_told_and_not_taken(tmp_path, caplog):
    stand = Stand(tmp_path, (1, 1, 1))
    stand.ticks()
    stand.file.write_text(stand.file.read_text().replace("static", "statik"))
    with caplog.at_level(logging.ERROR):
        stand.ticks()
    assert ["did you mean `static`" in record.getMessage() for record in caplog.records] == [True], (
        "told once"
    )
    assert stand.ready() == (1, 1, 1)


def test_nothing_shrinks_while_nothing_is_heard(tmp_path):
    """Of gateways and replicas, for longer than samples may be old; even if the policy file asks for it."""
    stand = Stand(tmp_path, (1, 1, 3))
    stand.ticks()
    stand.ledger.away = True
    stand.now_s += STALE_S
    stand.set_counts(1, 1, 1)
    stand.ticks(heard=False)
    assert stand.ready() == (1, 1, 3)
    stand.ledger.away = False
    stand.ticks()
    assert stand.ready() == (1, 1, 1)


def test_a_shard_that_is_away_stops_no_other(tmp_path):
    """Services of the others are scaled as ever."""
    stand = Stand(tmp_path, (1, 1, 3))
    stand.elsewhere.away = True
    stand.ticks()
    stand.set_counts(1, 2, 1)
    stand.ticks()
    assert stand.ready() == (1, 2, 1)


def test_a_cluster_that_is_away_is_no_end(tmp_path):
    """What was decided is forgotten; what is seen afterwards counts."""
    stand = Stand(tmp_path, (1, 1, 1))
    stand.cluster.away = True
    with pytest.raises(ClusterUnavailable):
        stand.ticks(1)
    stand.cluster.away = False
    stand.ticks()
    assert stand.ready() == (1, 1, 1)


def test_a_replica_that_is_lost_is_replaced(tmp_path):
    stand = Stand(tmp_path, (1, 1, 2))
    stand.ticks()
    lost = next(pod for pod in stand.cluster.pods.values() if pod.pool.stage is Stage.DECODE)
    del stand.cluster.pods[lost.name]
    stand.cluster.settle()
    stand.ticks()
    assert stand.ready() == (1, 1, 2)
    assert lost.name not in stand.cluster.pods


def test_a_controller_that_only_tells_changes_nothing(tmp_path, caplog):
    stand = Stand(tmp_path, (1, 1, 1), acts=False)
    with caplog.at_level(logging.INFO):
        stand.ticks()
    assert stand.cluster.pods == {}
    assert {record.getMessage() for record in caplog.records} == {"decision"}
    assert all(scaled == [0, 1] for scaled in caplog.records[0].scale.values())
