"""A replica takes another role: it finishes its work, keeps its place, and starts warm."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from orchestrator.core.changes import Changes, Switch
from orchestrator.core.scaling.static import StaticParams
from orchestrator.simulator.outcomes import Ending
from orchestrator.simulator.run import Simulation, simulate
from orchestrator.simulator.scenario import load_subject, scenario_of
from orchestrator.simulator.world import SWITCH_S
from stages.types import Stage
from tests.orchestrator.simulator.test_faults import check_now
from tests.orchestrator.simulator.test_simulate import POLICY, TRACE, of_any_length

AT_S = 10.0


@pytest.fixture(scope="module")
def scenario():
    """Prefill and decode are alike; nothing scales."""
    whole = of_any_length(load_subject(POLICY, TRACE, fleet="l40s=4x8,h100=6x8"))
    subject = replace(whole, workload=whole.workload.slice(300.0, 360.0))
    counts = StaticParams(encode=24, prefill=6, decode=6)
    return replace(subject.scenario(scaling="static", params=counts), scaled=False)


def switched(scenario):
    """Have a busy prefill replica become one of decode; return the simulation, it and what was seen."""
    simulation, seen = Simulation(scenario), {}
    world = simulation.world

    def switch(_):
        (service,) = simulation.services
        replica = max(service.pool_of[Stage.PREFILL].replicas, key=lambda r: (r.in_flight, r.replica_id))
        if not replica.in_flight:
            simulation.clock.after(0.05, switch, None)
            return
        seen["replica"] = replica
        order = Switch(
            replica_id=replica.replica_id, service=replica.service, stage=Stage.PREFILL, to=Stage.DECODE
        )
        world.apply(Changes(switch=(order,)))
        seen["at once"] = next(r for r in world.snapshot().replicas if r.replica_id == replica.replica_id)

    simulation.clock.at(AT_S, switch, None)
    for tick in range(200):
        simulation.clock.at(AT_S + 0.25 * tick + 0.01, lambda _: check_now(simulation), None)
    return simulation, seen


def test_it_drains_then_is_ready_in_its_place_as_another(scenario):
    simulation, seen = switched(scenario)
    run = simulation.run()
    before = seen["replica"]
    (after,) = [r for r in simulation.world.replicas.values() if r.created_s > 0.0]
    assert (after.stage, after.node_id, after.tp) == (Stage.DECODE, before.node_id, before.tp)
    assert after.created_s > AT_S
    assert after.since_s == pytest.approx(after.created_s + SWITCH_S)
    assert before.replica_id not in simulation.world.replicas
    assert np.all(run.only.outcomes.ending == Ending.ANSWERED)


def test_control_sees_it_as_one_of_its_new_stage_that_is_coming(scenario):
    simulation, seen = switched(scenario)
    simulation.run()
    assert (seen["at once"].stage, seen["at once"].state) == (Stage.DECODE, "starting")


def test_accelerators_are_paid_for_without_a_gap_and_once(scenario):
    simulation, _ = switched(scenario)
    run = simulation.run()
    accelerators = sum(create.tp for create in scenario.first.create)
    assert sum(run.only.accelerator_s.values()) == pytest.approx(accelerators * run.span_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Switching(StaticParams):
    """Fixed counts of a service whose engine can switch roles."""

    role_switch: bool = True


def test_a_turned_ratio_is_reached_without_cold_starts(scenario):
    """Six prefill and two decode replicas become two and six, each 5 s after it is empty."""
    warm, cold = (turned(scenario, role_switch=each) for each in (True, False))
    assert reached_s(warm) < 30.0 < reached_s(cold)


def turned(scenario, role_switch):
    """Return a run from six prefill and two decode replicas, of which control wants two and six."""
    tenant = scenario.only
    alike = {
        stage: replace(bounds, hardware=("h100",), tp=4) if stage is not Stage.ENCODE else bounds
        for stage, bounds in tenant.control.stages.items()
    }
    control = replace(
        tenant.control, stages=alike, scaling="static", params=StaticParams(encode=24, prefill=6, decode=2)
    )
    first = scenario_of([replace(tenant, control=control)], scenario.nodes)
    control = replace(control, params=Switching(encode=24, prefill=2, decode=6, role_switch=role_switch))
    slow = replace(tenant.workload, arrival_s=tenant.workload.arrival_s * 5.0, span_s=300.0)
    return simulate(replace(first, tenants=(replace(tenant, control=control, workload=slow),)))


def reached_s(run):
    """Return when six decode replicas were ready."""
    return next(m.at_s for m in run.only.timeline if m.counts[Stage.DECODE].ready == 6)
