"""The controller has replicas take another role where the cluster can move them, on a fake cluster."""

import asyncio
from dataclasses import replace

import msgspec
import pytest

from orchestrator.controller import Controller
from orchestrator.core.counts import Backlog
from orchestrator.core.pools import Pool
from orchestrator.published import published
from orchestrator.totals import ServiceTotals
from stages.types import Stage
from tests.fakes.cluster import FakeCluster
from tests.fakes.ledger import FakeLedger
from tests.orchestrator.core.fleets import D, P, SwitchingParams, node, policy

MODEL = "m"
POOLS = {Pool("s", stage, "a100"): 1 for stage in Stage}


class Counts:
    """`ServicePolicy` of fixed counts."""

    model = MODEL

    def __init__(self, encode, prefill, decode, hardware="a100"):
        self.of_stages = (encode, prefill, decode)
        self._hardware = hardware

    def current(self):
        encode, prefill, decode = self.of_stages
        params = SwitchingParams(encode=encode, prefill=prefill, decode=decode)
        return replace(policy(hardware=(self._hardware,)), params=params)


async def hear(ledger, pods, does, now_s):
    """Have a gateway and the replicas that are ready say how they are.

    Args:
        ledger: Where.
        pods: Of the cluster.
        does: Stage by pod, where it is another than its pool's; those that are new are added.
        now_s: On the controller's clock.
    """
    waiting = dict.fromkeys(Stage, Backlog())
    count = ServiceTotals(dict.fromkeys(Stage, 1.0), now_s).count("g", now_s, waiting)
    await ledger.greet("g", msgspec.json.encode(published(MODEL, count)), True)
    for pod in pods:
        if pod.ready:
            facts = {"stage": does.setdefault(pod.name, pod.pool.stage), "model": MODEL}
            facts |= {"modalities": [], "kv_bytes": 0, "hardware": pod.pool.hardware, "domain": []}
            ledger.register(f"{pod.name}.1", msgspec.json.encode(facts), 8, 0)
            ledger.renew(f"{pod.name}.1", msgspec.json.encode({"busy_s": 0.0}))


class Stand:
    """A controller, and replicas that register as what they do: what their pod's pool says, or did."""

    def __init__(self, *counts):
        self.counts = Counts(*counts)
        self.cluster = FakeCluster(nodes=(node("n", accelerators=8),), tp=dict(POOLS), movable=True)
        self.ledger = FakeLedger()
        self.now_s = 1_000.0
        self.does = {}
        services = {"s": self.counts}
        self.controller = Controller(self.cluster, [self.ledger], services, lambda: self.now_s)

    def tick(self):
        """Have the controller tick, and Kubernetes act after it; return the decision."""

        async def run():
            await self._hear()
            return await self.controller.tick()

        decision = asyncio.run(run())
        self.cluster.settle()
        self.now_s += 5.0
        return decision

    async def _hear(self):
        await hear(self.ledger, self.cluster.pods.values(), self.does, self.now_s)

    def moved(self):
        """Tick until a replica was moved; return its pod's name."""
        for _ in range(6):
            before = {pod.name: pod.pool for pod in self.cluster.pods.values()}
            self.tick()
            after = {pod.name: pod.pool for pod in self.cluster.pods.values()}
            if moved := [name for name in before.keys() & after.keys() if before[name] != after[name]]:
                return moved[0]
        raise AssertionError("nobody was moved")

    def running(self):
        pods = [pod for pod in self.cluster.pods.values() if not pod.gated]
        return tuple(sum(pod.pool.stage is stage for pod in pods) for stage in Stage)


@pytest.fixture
def stand():
    stand = Stand(1, 2, 1)
    for _ in range(4):
        stand.tick()
    assert stand.running() == (1, 2, 1)
    stand.counts.of_stages = (1, 1, 2)
    return stand


def states(decision):
    return {stage: decision.signals["s"].stages[stage] for stage in (P, D)}


def test_a_replica_is_of_its_new_stage_and_starting_until_it_has_changed(stand):
    """Its pod says that it is ready all the time; and whatever comes, it is decided once."""
    name = stand.moved()
    seen = states(stand.tick())
    assert (seen[P].ready, seen[D].ready, seen[D].coming) == (1, 1, 1)
    for _ in range(3):
        decision = stand.tick()
    assert decision.changes.remove == decision.changes.switch == decision.changes.create == ()
    stand.does[name] = D
    assert states(stand.tick())[D].ready == 2
    assert stand.running() == (1, 1, 2)
    assert name in stand.cluster.pods


def test_one_whose_server_does_not_change_is_replaced(stand):
    """The old way: it goes, and another comes."""
    name = stand.moved()
    stand.cluster.pods[name] = replace(stand.cluster.pods[name], ready=False, failed=True)
    stand.cluster.starts = False
    decision = stand.tick()
    assert {r.replica_id.partition(".")[0]: r.reason for r in decision.changes.remove}[name] == "start-failed"
    stand.cluster.starts = True
    for _ in range(6):
        stand.tick()
    assert stand.running() == (1, 1, 2)
    assert name not in stand.cluster.pods
