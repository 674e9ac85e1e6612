"""The first replicas of a simulation: what the policies settle at under the first hour's mean load."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.core.changes import Changes, Create
from orchestrator.core.decide import Decision, ServiceState, decide
from orchestrator.core.observed import (
    Node,
    PlacedReplica,
    ReplicaState,
    ServiceSample,
    Snapshot,
    StageSample,
    StageSignals,
)
from orchestrator.core.planned import ControlPolicy
from orchestrator.simulator.servable import served
from orchestrator.simulator.systems import SYSTEMS
from orchestrator.simulator.tenant import Tenant
from orchestrator.simulator.work import work_from_rows
from orchestrator.simulator.workload import Workload
from stages.types import Stage

SETTLING_S = 2_400.0
"""Longer than any policy's cooldown and stabilisation."""
_TICK_S = 15.0
_FIRST_S = 3_600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rates:
    """Mean load per second."""

    requests: float
    images: float
    text_tokens: float
    output_tokens: float


def first_replicas(tenants: Sequence[Tenant], nodes: tuple[Node, ...]) -> Changes:
    """Return what has to be created for the policies' steady state.

    `decide` is run on a plant that does at once what it is told and meets the mean load of the
    workloads' first hour without variation.
    """
    policies = {tenant.name: tenant.control for tenant in tenants}
    loads = [_Load(tenant.control, _mean_rates(tenant.control, _served(tenant))) for tenant in tenants]
    plant, state = _Plant(loads, nodes), dict[str, ServiceState]()
    for step in range(int(SETTLING_S / _TICK_S)):
        now_s = step * _TICK_S
        decision = decide(plant.snapshot(now_s), policies, state, now_s)
        state = dict(decision.state)
        plant.apply(decision)
    return Changes(create=tuple(plant.created.values()))


class _Plant:
    """Replicas that are ready when created, under a load without variation."""

    def __init__(self, loads: Sequence["_Load"], nodes: tuple[Node, ...]) -> None:
        self._loads = {load.service: load for load in loads}
        self._nodes = nodes
        self._boots = 0
        self.created: dict[str, Create] = {}

    def snapshot(self, now_s: float) -> Snapshot:
        return Snapshot(
            services={service: load.sample(now_s) for service, load in self._loads.items()},
            replicas=tuple(_placed(name, create) for name, create in self.created.items()),
            nodes=self._nodes,
        )

    def apply(self, decision: Decision) -> None:
        for remove in decision.changes.remove:
            self.created.pop(remove.replica_id, None)
        for switch in decision.changes.switch:
            self.created[switch.replica_id] = replace(self.created[switch.replica_id], stage=switch.to)
        for create in decision.changes.create:
            if create.node_id:
                self._boots += 1
                self.created[f"first-{self._boots}"] = create
        for service, load in self._loads.items():
            load.work(decision.signals[service].stages)


class _Load:
    """One service's load, without variation."""

    def __init__(self, control: ControlPolicy, rates: _Rates) -> None:
        self.service = control.service
        self._control = control
        self._rates = rates
        self._busy_s = dict.fromkeys(Stage, 0.0)

    def work(self, seen: Mapping[Stage, StageSignals]) -> None:
        for stage, signals in seen.items():
            wanted = self._offered(stage) / signals.rate if signals.rate > 0.0 else 0.0
            self._busy_s[stage] += min(float(signals.ready), wanted) * _TICK_S

    def _offered(self, stage: Stage) -> float:
        """Return the stage's units per second."""
        images = self._rates.images * self._control.profile.image_tokens
        return {
            Stage.ENCODE: images,
            Stage.PREFILL: self._rates.text_tokens + self._control.kappa * images,
            Stage.DECODE: self._rates.output_tokens,
        }[stage]

    def sample(self, now_s: float) -> ServiceSample:
        rates = self._rates
        requests = int(rates.requests * now_s)
        jobs = {
            Stage.ENCODE: int(rates.images * now_s),
            Stage.PREFILL: requests,
            Stage.DECODE: requests,
        }
        return ServiceSample(
            at_s=now_s,
            requests=requests,
            text_tokens=rates.text_tokens * now_s,
            image_tokens=self._offered(Stage.ENCODE) * now_s,
            prompt_tokens=self._offered(Stage.PREFILL) * now_s,
            finished=requests,
            output_tokens=rates.output_tokens * now_s,
            judged=requests,
            attained=requests,
            ttft_ratio=0.5,
            tpot_ratio=0.5,
            stages={
                stage: StageSample(
                    offered_units=self._offered(stage) * now_s,
                    offered_jobs=jobs[stage],
                    done_units=self._offered(stage) * now_s,
                    busy_s=self._busy_s[stage],
                    started_jobs=jobs[stage],
                )
                for stage in Stage
            },
        )


def _placed(name: str, create: Create) -> PlacedReplica:
    return PlacedReplica(
        replica_id=name,
        service=create.service,
        stage=create.stage,
        hardware=create.hardware,
        tp=create.tp,
        node_id=create.node_id,
        group=create.group,
        state=ReplicaState.READY,
    )


def _served(tenant: Tenant) -> Workload:
    return served(tenant.control, tenant.workload, SYSTEMS[tenant.system])


def _mean_rates(control: ControlPolicy, work: Workload) -> _Rates:
    first = work.arrival_s <= _FIRST_S
    span_s = max(1.0, min(_FIRST_S, float(work.arrival_s[-1]))) if len(work.arrival_s) else 1.0
    return _Rates(
        requests=np.count_nonzero(first) / span_s,
        images=float(work.images[first].sum()) / span_s,
        text_tokens=float(work_from_rows(work, control.profile).text_tokens[first].sum()) / span_s,
        output_tokens=float(work.output_tokens[first].sum()) / span_s,
    )
