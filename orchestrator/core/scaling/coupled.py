"""coupled: the three stages sized together from the flow of work between them."""

from dataclasses import replace

from orchestrator.core.observed import Signals
from orchestrator.core.planned import ControlPolicy, ScalePlan, ScalerState, StagePlan
from orchestrator.core.scaling.coupled_params import CoupledParams
from orchestrator.core.scaling.coupled_turn import CoupledState, Turn, encode_turn, guard_turn, pair_turn
from orchestrator.core.scaling.params import params_of
from orchestrator.core.scaling.scaler import asked, own, propose
from orchestrator.core.scaling.steps import clock_of
from stages.types import Stage


def coupled(
    signals: Signals, policy: ControlPolicy, state: ScalerState, now_s: float
) -> tuple[ScalePlan, ScalerState]:
    """Size the three stages together, each for the work that its upstream lets through.

        L_E  = (1 − h_E) · off_img + q_E / T_drain                      N_E: W99(N_E) ≤ wait_share · budget_E
        to_P = h_E · off_img + min(L_E, N_E · mu_E)
        L_P  = (off_txt + kappa · to_P) · (1 − h_KV) + q_P / T_drain    N_P: W99(N_P) ≤ wait_share · budget_P
        to_D = min(rate + n_qP / T_drain, N_P · mu_P / w_P)
        L_D  = max(x_D, to_D · E[output tokens]) + q_D / T_drain        N_D = L_D / (mu_D · headroom)

    off_*: offered per second, before admission. Encode decides every 5 s and grows without limit: it
    starts fast, costs little, and images come in bursts. Prefill and decode decide every 30 s and move
    together. The caps by upstream time a growth and never cause a shrinking. A stage shrinks to the highest
    need that it had in `settle_s`: what a burst took is kept for the next one, and chance moves nothing.

    Source: this project's synthesis of sizing by queueing theory, offered tokens per stage (ModServe,
    arXiv 2502.00937), the ratio as a fallback and guardrails in fixed steps (HeteroScale, arXiv
    2508.19559). Inputs: offered rates, backlogs, cache hits, rates of the profile, variability, and the
    multiples of the SLO. Choose it unless there is no profile: it needs rates to divide by.
    """
    params, mine = params_of(policy, CoupledParams), own(state, CoupledState)
    counts = {stage: asked(signals, mine, stage) for stage in Stage}
    turn = Turn(signals=signals, policy=policy, params=params, counts=counts, now_s=now_s)
    decided: dict[Stage, StagePlan] = {}
    slow = now_s - mine.pair_s >= params.period_s
    if slow or now_s - mine.encode_s >= params.encode_period_s:
        decided, mine = encode_turn(turn, mine)
    if slow:
        pair, mine = pair_turn(turn, mine, encode_count=decided[Stage.ENCODE].replicas)
        decided, mine = guard_turn(turn, mine, decided | pair)
    standing = {
        s: propose(counts[s], plan.reason, plan.need) for s, plan in mine.last.items() if s not in decided
    }
    clocks = {
        s: clock_of(mine.clocks, s, now_s).after(counts[s], plan.replicas, now_s)
        for s, plan in decided.items()
    }
    mine = replace(mine, clocks={**mine.clocks, **clocks}, last={**mine.last, **decided})
    return ScalePlan(stages={**standing, **decided}), mine
