"""The decisions of coupled at one moment: the fast loop, the slow loop and the guardrail."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.core.observed import Signals
from orchestrator.core.planned import ControlPolicy, ScaleReason, ScalerState, StagePlan
from orchestrator.core.scaling.band import NO_BAND, Band, filled, trusted
from orchestrator.core.scaling.coupled_params import CoupledParams
from orchestrator.core.scaling.flow import Flow, Need
from orchestrator.core.scaling.guardrail import (
    NO_BREACH,
    Guardrail,
    growth,
    to_blame,
    tpot_is_worse,
    worst_ratio,
)
from orchestrator.core.scaling.pair import Side, together
from orchestrator.core.scaling.scaler import propose
from orchestrator.core.scaling.stabilise import Recent, highest, remember
from orchestrator.core.scaling.steps import Clock, StepRules, bounded, clock_of, step, wants_in, whole
from orchestrator.core.scaling.trend import NO_TREND, Trend
from stages.types import Stage

PREFILL, DECODE = Stage.PREFILL, Stage.DECODE
Plans = dict[Stage, StagePlan]


@dataclass(frozen=True, slots=True, kw_only=True)
class CoupledState(ScalerState):
    """What coupled remembers.

    Attributes:
        encode_s: When the fast loop last decided.
        pair_s: When the slow loop last did.
        clocks: When counts last moved.
        last: What was last decided; it stands until the stage's loop is due again.
        needs: The highest needs of late, as far as they can still hold a shrinking back.
        trend: Of text tokens.
        band: Needs that the ratio is learnt from.
        guard: What breaches have added.
    """

    encode_s: float = -math.inf
    pair_s: float = -math.inf
    clocks: Mapping[Stage, Clock] = field(default_factory=dict)
    last: Mapping[Stage, StagePlan] = field(default_factory=dict)
    needs: Mapping[Stage, Recent[float]] = field(default_factory=dict)
    trend: Trend = NO_TREND
    band: Band = NO_BAND
    guard: Guardrail = NO_BREACH


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The arguments of one decision.

    Attributes:
        counts: Replicas to step from.
    """

    signals: Signals
    policy: ControlPolicy
    params: CoupledParams
    counts: Mapping[Stage, int]
    now_s: float

    def flow(self, trend: Trend) -> Flow:
        """Return the flow of work, with the text load carried forward by each stage's lead.

        Images are not carried forward, nor are requests so far as they are image tokens.
        """
        seen, most = self.signals, self.params.forecast_most
        text = seen.text_tokens
        if not self.params.forecast or text <= 0.0:
            return Flow(
                signals=seen, policy=self.policy, params=self.params, text_tokens=text, requests=seen.requests
            )
        grown = [trend.growth(text, self.policy.stages[s].lead_s, most) for s in (PREFILL, DECODE)]
        requests = seen.requests * (1.0 + grown[1] / (text + seen.image_tokens))
        return Flow(
            signals=seen,
            policy=self.policy,
            params=self.params,
            text_tokens=text + grown[0],
            requests=requests,
        )

    def noted(self, stage: Stage, need: Need, state: CoupledState) -> tuple[float, CoupledState]:
        """Return a stage's need with what breaches have added, and the state that remembers it."""
        guarded = state.guard.guarded(stage, need.at(self.counts[stage]), self.params.guardrail_most)
        recent = remember(state.needs.get(stage, ()), guarded, self.now_s, self.params.settle_s)
        return guarded, replace(state, needs={**state.needs, stage: recent})

    def side(self, stage: Stage, need: float, state: CoupledState, rules: StepRules) -> Side:
        """Return what moves a stage."""
        return Side(
            count=self.counts[stage],
            need=need,
            rules=rules,
            bounds=self.policy.stages[stage],
            clock=clock_of(state.clocks, stage, self.now_s),
        )

    def settled(self, stage: Stage, need: float, state: CoupledState, rules: StepRules) -> Side:
        """Return what moves a stage that shrinks to its highest need of late and no further."""
        highest_need = max(need, min(float(self.counts[stage]), highest(state.needs[stage])))
        return self.side(stage, highest_need, state, rules)

    def stepped(
        self, stage: Stage, need: Need, state: CoupledState, rules: StepRules
    ) -> tuple[StagePlan, CoupledState]:
        """Return the plan of a stage that moves by itself."""
        if not need.known:
            return propose(self.counts[stage], ScaleReason.NO_SIGNAL), state
        guarded, state = self.noted(stage, need, state)
        side = self.settled(stage, guarded, state, rules)
        move = step(side.count, side.need, rules, side.clock, side.bounds, self.now_s)
        return _plan(side, guarded, move), state


def _plan(side: Side, need: float, move: tuple[int, ScaleReason]) -> StagePlan:
    """Return a stage's plan; a shrinking that the need of late alone holds back says so."""
    replicas, reason = move
    held = replicas == side.count and not side.inward and wants_in(side.count, need, side.rules)
    return propose(replicas, ScaleReason.STABILISING if held else reason, need)


def encode_turn(turn: Turn, state: CoupledState) -> tuple[Plans, CoupledState]:
    """Decide on encode."""
    need = turn.flow(state.trend).encode()
    plan, state = turn.stepped(Stage.ENCODE, need, state, turn.params.encode_rules)
    return {Stage.ENCODE: plan}, replace(state, encode_s=turn.now_s)


def pair_turn(turn: Turn, state: CoupledState, *, encode_count: int) -> tuple[Plans, CoupledState]:
    """Decide on prefill and decode, given what encode will have."""
    params, now_s = turn.params, turn.now_s
    if params.forecast:
        trend = state.trend.updated(turn.signals.text_tokens, now_s, params.trend_half_life_s)
        state = replace(state, trend=trend)
    flow = turn.flow(state.trend)
    prefill = flow.prefill(encode_count)
    decode = flow.decode(_soon(turn, prefill))
    needs = _banded(turn, state.band, prefill, decode)
    plans, state = _moves(turn, state, needs)
    if needs[PREFILL] is not prefill:
        plans[PREFILL] = _by_ratio(plans[PREFILL], params)
    if needs[DECODE] is not decode:
        plans[DECODE] = _by_ratio(plans[DECODE], params)
    if flow.text_tokens > turn.signals.text_tokens:
        plans = _forecast(turn, state, plans, encode_count)
    return plans, replace(state, pair_s=now_s, band=_taught(turn, state, prefill, decode))


def guard_turn(turn: Turn, state: CoupledState, plans: Plans) -> tuple[Plans, CoupledState]:
    """Let a breach of the SLO, once it has lasted, add replicas to the stage to blame."""
    if not turn.params.guardrail:
        return plans, state
    worst = None if _explained(turn, plans) else worst_ratio(turn.signals)
    guard = state.guard.watched(worst, turn.params.period_s)
    stage = to_blame(turn.signals)
    if worst is None or stage is None or guard.breaches < turn.params.guardrail_windows:
        return plans, replace(state, guard=guard)
    model = _unguarded(turn, state, stage, plans)
    most = turn.params.guardrail_most
    guard = guard.raised(stage, model, growth(turn.counts[stage], worst), most)
    need = guard.guarded(stage, model, most)
    target = bounded(whole(need), turn.policy.stages[stage])
    if target > plans[stage].replicas:
        plans = {**plans, stage: propose(target, ScaleReason.GUARDRAIL, need)}
    return plans, replace(state, guard=guard)


def _unguarded(turn: Turn, state: CoupledState, stage: Stage, plans: Plans) -> float:
    """Return the need of a stage by the model alone."""
    plain = replace(state, guard=NO_BREACH)
    if stage is Stage.ENCODE:
        return encode_turn(turn, plain)[0][stage].need
    return pair_turn(turn, plain, encode_count=plans[Stage.ENCODE].replicas)[0][stage].need


def _explained(turn: Turn, plans: Plans) -> bool:
    """Return whether a stage that a breach may be due to is known to be short, or has replicas starting."""
    suspects = (DECODE,) if tpot_is_worse(turn.signals) else tuple(Stage)
    slack = 1.0 + turn.params.hysteresis_out
    return any(turn.signals.stages[s].coming or plans[s].need > slack * turn.counts[s] for s in suspects)


def _soon(turn: Turn, prefill: Need) -> int:
    """Return the replicas that prefill has, or will have if it gets what it needs."""
    count = turn.counts[PREFILL]
    return max(count, bounded(whole(prefill.at(count)), turn.policy.stages[PREFILL]))


def _banded(turn: Turn, band: Band, prefill: Need, decode: Need) -> Mapping[Stage, Need]:
    """Return both needs after the band had its say."""
    ratio, seen = band.ratio(turn.params), turn.signals.stages
    if ratio is None or turn.params.band == "never":
        return {PREFILL: prefill, DECODE: decode}
    if turn.params.band == "always":
        return {PREFILL: decode.scaled(ratio), DECODE: decode}
    return {
        PREFILL: filled(prefill, seen[PREFILL], decode, seen[DECODE], ratio),
        DECODE: filled(decode, seen[DECODE], prefill, seen[PREFILL], 1.0 / ratio),
    }


def _taught(turn: Turn, state: CoupledState, prefill: Need, decode: Need) -> Band:
    """Return the band after this moment, if both stages' own needs can be relied on."""
    seen = turn.signals.stages
    if not (trusted(seen[PREFILL], prefill) and trusted(seen[DECODE], decode)):
        return state.band
    keep = 0.5 ** ((turn.now_s - state.pair_s) / turn.params.band_half_life_s)
    return state.band.learnt(prefill.offered, decode.offered, keep)


def _moves(turn: Turn, state: CoupledState, needs: Mapping[Stage, Need]) -> tuple[Plans, CoupledState]:
    """Return both plans: together if that is asked for and both needs are known."""
    rules = turn.params.rules
    if not (turn.params.atomic and needs[PREFILL].known and needs[DECODE].known):
        prefill, state = turn.stepped(PREFILL, needs[PREFILL], state, rules)
        decode, state = turn.stepped(DECODE, needs[DECODE], state, rules)
        return {PREFILL: prefill, DECODE: decode}, state
    guarded = {}
    for stage in (PREFILL, DECODE):
        guarded[stage], state = turn.noted(stage, needs[stage], state)
    sides = {s: turn.settled(s, guarded[s], state, rules) for s in guarded}
    switch = None
    if turn.params.role_switch and _alike(turn.policy):
        switch = (
            turn.side(PREFILL, guarded[PREFILL], state, rules),
            turn.side(DECODE, guarded[DECODE], state, rules),
        )
    moves = together(sides[PREFILL], sides[DECODE], turn.now_s, switch=switch)
    plans = {s: _plan(sides[s], guarded[s], m) for s, m in zip(sides, moves, strict=True)}
    return plans, state


def _forecast(turn: Turn, state: CoupledState, plans: Plans, encode_count: int) -> Plans:
    """Name the forecast as the reason of a growth that the present load would not have asked for."""
    grown = {s for s in plans if plans[s].replicas > turn.counts[s] and plans[s].reason is ScaleReason.DEMAND}
    if not grown:
        return plans
    plain = turn.flow(NO_TREND)
    prefill = plain.prefill(encode_count)
    now = {PREFILL: prefill, DECODE: plain.decode(_soon(turn, prefill))}
    early = {s for s in grown if whole(turn.noted(s, now[s], state)[0]) < plans[s].replicas}
    return plans | {s: replace(plans[s], reason=ScaleReason.FORECAST) for s in early}


def _alike(policy: ControlPolicy) -> bool:
    """Return whether prefill and decode replicas are of the same size on the same hardware."""
    prefill, decode = policy.stages[PREFILL], policy.stages[DECODE]
    return (prefill.hardware[0], prefill.tp) == (decode.hardware[0], decode.tp)


def _by_ratio(plan: StagePlan, params: CoupledParams) -> StagePlan:
    """Name the band as the reason of what demand alone would not have asked for."""
    reason = ScaleReason.RATIO if params.band == "always" else ScaleReason.FALLBACK_BAND
    return replace(plan, reason=reason) if plan.reason is ScaleReason.DEMAND else plan
