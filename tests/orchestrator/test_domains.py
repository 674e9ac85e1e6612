"""Waiting for a replica of one's own topology domain."""

import asyncio
import time

import pytest

from orchestrator import dispatch
from orchestrator.core.types import Replica, RouteQuery
from orchestrator.core.waiting import Waiting, WaitingParams
from orchestrator.dispatch import Hop, NobodyInDomain, StageQueue
from orchestrator.ports import DispatchResult, RegisteredReplica, Snapshot
from orchestrator.registry import Registry
from stages.types import EncodeJob, Stage


class Credits:
    """A ledger that counts what is dispatched to each replica."""

    def __init__(self):
        self.taken = {}

    async def dispatch(self, order):
        self.taken[order.job.request_id] = order.replica_id
        return DispatchResult.OK


class Nobody:
    """Hears nothing."""

    def routed(self, stage, reason):
        pass


def decode(name, domain, in_flight=0):
    return Replica(
        replica_id=f"{name}.1", stage=Stage.DECODE, model="tiny", slots=1, in_flight=in_flight, domain=domain
    )


def hop(number, domain):
    now_s = time.monotonic()
    return Hop(
        waiting=Waiting(hop_id=f"{number}", arrival_s=now_s, due_s=now_s + number, deadline_s=now_s + 60),
        query=RouteQuery(
            stage=Stage.DECODE, model="tiny", tokens=1, prefix_tokens={}, domain=domain, required_level=1
        ),
        job=EncodeJob(
            request_id=f"r{number}", hop="decode", attempt=1, reply_to="g", model="tiny",
            deadline_unix_s=0.0, item=None,
        ),
        ttl_s=60.0, is_over=lambda: True,
    )  # fmt: skip


def dispatched(replicas, domains):
    """Queue a hop for each domain, in order of urgency; return who took which."""

    async def run():
        registry, ledger = Registry("g"), Credits()
        entries = [RegisteredReplica(replica=replica, facts={}, load={}) for replica in replicas]
        registry.refresh(Snapshot(replicas=tuple(entries)))
        params = WaitingParams(ttft_s=2.0, stretch=0.0, age_s=10.0, priority_s=10.0)
        queue = StageQueue(
            Stage.DECODE, "g", ledger, registry, weights=lambda: {"free_kv": 1.0}, params=lambda: params,
            held=lambda: False, abandon=lambda hop: None, observer=Nobody(),
        )  # fmt: skip
        waiting = [asyncio.create_task(queue.acquire(hop(n, d))) for n, d in enumerate(domains)]
        running = asyncio.create_task(queue.run())
        done, _ = await asyncio.wait(waiting, timeout=0.3)
        for task in (running, *waiting):
            task.cancel()
        for task in done:
            task.result()
        return ledger.taken

    return asyncio.run(run())


def test_a_full_domain_does_not_hold_up_another():
    replicas = [decode("a", ("z1",), in_flight=1), decode("b", ("z2",))]
    assert dispatched(replicas, [("z1",), ("z1",), ("z2",)]) == {"r2": "b.1"}


def test_a_domain_that_stays_empty_is_given_up(monkeypatch):
    """So that the pipeline prefills where there is decode."""
    monkeypatch.setattr(dispatch, "_DOMAIN_PATIENCE_S", 0.05)
    with pytest.raises(NobodyInDomain):
        dispatched([decode("b", ("z2",))], [("z1",)])


def test_each_domain_serves_its_own():
    replicas = [decode("a", ("z1",)), decode("b", ("z2",))]
    assert dispatched(replicas, [("z2",), ("z1",), ("z2",)]) == {"r0": "b.1", "r1": "a.1"}


def test_work_of_an_unknown_domain_keeps_its_turn():
    replicas = [decode("a", ("z1",), in_flight=1), decode("b", ("z2",), in_flight=1)]
    assert dispatched(replicas, [(), ("z1",)]) == {}
