"""Loads made for a purpose: what they offer, coupled on a flat one, and what ablations yield."""

from dataclasses import replace

import numpy as np
import pytest

from orchestrator.core.scaling.coupled_params import CoupledParams
from orchestrator.simulator.ablate import REGIMES, TERMS, ablate
from orchestrator.simulator.regimes import Regime, drawn, flat, with_least
from orchestrator.simulator.run import simulate
from orchestrator.simulator.scenario import load_subject
from orchestrator.simulator.summary import summarise
from stages.types import Stage
from tests.orchestrator.simulator.test_simulate import POLICY, TRACE

HOUR_S = 3_600.0


@pytest.fixture(scope="module")
def subject():
    return load_subject(POLICY, TRACE)


def test_requests_are_drawn_at_the_rates_of_the_load(subject):
    load = replace(flat(60, text=2.0, images=1.0), output=np.repeat([1.0, 3.0], 30))
    work = drawn(subject.workload, load, 0, "mine")
    assert np.count_nonzero(work.images == 0) == pytest.approx(7_200, rel=0.05)
    assert np.count_nonzero(work.images) == pytest.approx(3_600, rel=0.05)
    early, late = (
        work.output_tokens[part].mean() for part in (work.arrival_s < 1_800, work.arrival_s >= 1_800)
    )
    assert late == pytest.approx(3.0 * early, rel=0.1)


@pytest.mark.slow
def test_on_flat_load_no_count_moves_after_an_hour(subject):
    """Poisson arrivals, a third of them with one to sixteen images: once settled, no scale event."""
    work = drawn(subject.workload, flat(120, text=0.6, images=0.3), 0, "flat")
    run = simulate(replace(subject, workload=work).scenario(scaling="coupled", params=CoupledParams()))
    settled = {
        tuple(moment.wanted[stage][0] for stage in Stage)
        for moment in run.only.timeline
        if moment.at_s > HOUR_S
    }
    assert len(settled) == 1
    assert np.mean(run.only.outcomes.attained) > 0.99


def test_an_ablation_has_runs_with_the_term_and_without_on_the_same_requests(subject):
    """Engines that take twice as long as control believes, and one encoder at most."""
    regime = Regime(what="short", load=flat(3, text=2.0, images=1.0), most={Stage.ENCODE: 1}, slowdown=2.0)
    (row,) = ablate(subject, terms={"caps": TERMS["caps"]}, regimes={"short": regime}, seeds=(0, 1))
    assert (row.term, row.regime) == ("caps", "short")
    offered = [[s.groups["all"].requests for s in runs] for runs in (row.whole, row.without)]
    assert offered[0] == offered[1]
    assert len(set(offered[0])) == 2


def test_slower_engines_take_longer_than_control_believes(subject):
    short = Regime(what="short", load=flat(3, text=2.0, images=0.5))
    runs = [
        simulate(replace(short, slowdown=slowdown).of(subject, "short", 0).scenario()).only
        for slowdown in (1.0, 2.0)
    ]
    tpot_s = [float(np.nanmean(run.outcomes.tpot_s)) for run in runs]
    assert tpot_s[1] == pytest.approx(2.0 * tpot_s[0], rel=0.2)


def test_a_regime_that_lets_more_wait_tells_admission_and_control(subject):
    """And a request is given up after six times as long."""
    patient = Regime(what="patient", load=flat(3, text=2.0, images=0.5), queue_s=100.0).of(subject, "p", 0)
    admission = patient.policy.admission
    assert (admission.queue_s, admission.deadline_s, patient.control.queue_s) == (100.0, 600.0, 100.0)


def test_a_regime_with_a_budget_or_minima_tells_control(subject):
    tight = Regime(what="tight", load=flat(3, text=2.0, images=0.5), least=0, budget=24).of(subject, "t", 0)
    assert tight.control.budget == 24
    assert {bounds.min for bounds in tight.control.stages.values()} == {0}


def test_where_requests_repeat_caches_supply_images_and_prompts(subject):
    repeats = Regime(what="repeats", load=flat(3, text=2.0, images=1.0), known=0.9).of(subject, "r", 0)
    work = repeats.workload
    assert np.count_nonzero(np.unique(work.content_ids, return_counts=True)[1] > 1) == 50
    one, other = np.flatnonzero(work.content_ids == work.content_ids[work.content_ids < 50][0])[:2]
    shared = min(len(work.prefix_blocks.of(one)), len(work.prefix_blocks.of(other)))
    assert (work.prefix_blocks.of(one)[:shared] == work.prefix_blocks.of(other)[:shared]).all()
    found = summarise(simulate(repeats.scenario()))
    assert min(found.embedding_hits, found.prefix_hits) > 0.1


def test_every_term_leaves_something_out_and_what_is_left_is_valid(subject):
    control = replace(with_least(subject.control, 0), budget=24)
    whole = replace(subject, control=control), CoupledParams(role_switch=True)
    for name, term in TERMS.items():
        assert term.without(*whole) != whole, name
    assert all(regime.load.text.shape == regime.load.images.shape for regime in REGIMES.values())
