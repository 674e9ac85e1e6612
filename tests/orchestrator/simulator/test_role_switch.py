"""A replica takes another role: it finishes its work, keeps its place, and starts warm."""

from dataclasses import replace

import numpy as np
import pytest

from orchestrator.core.control_types import Changes, Switch
from orchestrator.core.scaling.coupled_params import CoupledParams
from orchestrator.core.scaling.static import StaticParams
from orchestrator.simulator.outcomes import Ending
from orchestrator.simulator.run import Simulation
from orchestrator.simulator.scenario import load_subject, scenario_of
from orchestrator.simulator.summary import summarise
from orchestrator.simulator.world import SWITCH_S
from stages.types import Stage
from tests.orchestrator.simulator.test_faults import check_now
from tests.orchestrator.simulator.test_simulate import POLICY, TRACE

AT_S = 10.0


@pytest.fixture(scope="module")
def scenario():
    """Prefill and decode are alike; nothing scales."""
    whole = load_subject(POLICY, TRACE, fleet="l40s=4x8,h100=6x8")
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


def test_control_switches_roles_when_the_mix_is_not_what_the_counts_are_for(scenario):
    """Long prompts, then long answers, from counts for their mean: cheaper than cold starts."""
    (with_switch, orders), (without, none) = (turned(scenario, role_switch=each) for each in (True, False))
    assert orders
    assert not none
    assert all({order.stage, order.to} == {Stage.PREFILL, Stage.DECODE} for order in orders)
    assert with_switch.attainment >= without.attainment
    assert with_switch.gpu_hours < without.gpu_hours


def turned(scenario, role_switch):
    """Return the figures of a run whose load turns, and the switches."""
    tenant = scenario.only
    alike = {
        stage: replace(bounds, hardware=("h100",), tp=4) if stage is not Stage.ENCODE else bounds
        for stage, bounds in tenant.control.stages.items()
    }
    params = CoupledParams(role_switch=role_switch)
    control = replace(tenant.control, stages=alike, scaling="coupled", params=params)
    tenant = replace(tenant, control=control, workload=turning(tenant.workload, 4_000))
    simulation, orders = Simulation(scenario_of([tenant], scenario.nodes)), []
    apply = simulation.world.apply
    simulation.world.apply = lambda changes: (orders.extend(changes.switch), apply(changes))
    return summarise(simulation.run()), orders


def turning(like, requests):
    """Return half the requests with long prompts and short answers, then half the other way round."""
    half = requests // 2
    return replace(
        like,
        arrival_s=np.arange(requests) * 0.1,
        images=np.zeros(requests, np.int32),
        context_tokens=np.repeat(np.array([24_000, 500], np.int32), half),
        output_tokens=np.repeat(np.array([20, 1_500], np.int32), half),
        span_s=requests * 0.1,
        prefix_blocks=None,
        content_ids=None,
    )
