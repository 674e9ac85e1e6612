"""Parameters of coupled: every term has a switch, so that its worth can be measured."""

from dataclasses import dataclass
from typing import Literal

from orchestrator.core.infeasible import InfeasibleError
from orchestrator.core.scaling.params import Params, above_zero, fraction, not_negative
from orchestrator.core.scaling.steps import StepRules

Band = Literal["never", "fallback", "always"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CoupledParams(Params):
    """Parameters of coupled.

    Attributes:
        offered: Whether demand is what is offered, before admission; if not, what each stage gets done.
        caps: Whether prefill and decode are sized for what can reach them; if not, for what is offered.
        cache_hits: Whether demand is without what caches supply; if not, all that is offered is work.
        drain: Whether backlogs add to demand.
        dispersion: Whether encode and prefill are sized for the variability measured; if not, for Poisson.
        forecast: Whether a trend of text load, never of images, is carried forward by the lead.
        guardrail: Whether a breach of the SLO adds replicas to the stage to blame.
        band: When the prefill:decode ratio sizes a stage, in place of a signal that fails or in any case;
            never, fallback, always.
        ratio: Prefill replicas per decode replica in the band, null: learnt from their needs; above 0.
        atomic: Whether prefill and decode move together or not at all.
        role_switch: Whether prefill replicas become decode replicas, and the reverse, in their places:
            SGLang's alone, warm with `--enable-pd-role-switch`.
        drain_s: Time in which a backlog shall go, and no shorter than the stage's start; above 0.
        wait_share: Multiple of encode's and prefill's budget_s that waiting may take at its 99th
            percentile: above 1 where what one stage does not use up is there for the other; above 0.
        headroom: Fraction of decode's rate to plan with; above 0 to 1.
        encode_period_s: Between decisions on encode, the fast loop; ≥ 0.
        period_s: Between decisions on prefill and decode, the slow loop; ≥ 0.
        hysteresis_out: No growth while the need is within this fraction above the count; ≥ 0.
        hysteresis_in: No shrinking while it is within this fraction below; ≥ 0 and below 1.
        encode_cooldown_out_s: Between two growths of encode; ≥ 0.
        cooldown_out_s: Between two growths of prefill and decode; ≥ 0.
        cooldown_in_s: From any change to a shrinking; ≥ 0.
        settle_s: A shrinking goes to the highest need of so long; ≥ 0.
        encode_up: Growth of encode at once, as a fraction of its count, null: no limit; above 0.
        up: Growth of prefill and decode at once, likewise; above 0.
        down: Shrinking at once, as a fraction of the count and at least one replica; above 0 to 1.
        guardrail_windows: Windows of period_s that a breach lasts before the guardrail acts; ≥ 1.
        guardrail_most: What the guardrail may add, as a fraction of the need and one replica at least; ≥ 0.
        band_half_life_s: Of the learnt ratio; above 0.
        trend_half_life_s: Of the trend that is carried forward; above 0.
        forecast_most: Growth that a forecast may add, as a fraction of the load; ≥ 0.
    """

    offered: bool = True
    caps: bool = True
    cache_hits: bool = True
    drain: bool = True
    dispersion: bool = True
    forecast: bool = True
    guardrail: bool = True
    band: Band = "fallback"
    ratio: float | None = None
    atomic: bool = True
    role_switch: bool = False
    drain_s: float = 120.0
    wait_share: float = 1.5
    headroom: float = 0.85
    encode_period_s: float = 5.0
    period_s: float = 30.0
    hysteresis_out: float = 0.2
    hysteresis_in: float = 0.20
    encode_cooldown_out_s: float = 30.0
    cooldown_out_s: float = 120.0
    cooldown_in_s: float = 600.0
    settle_s: float = 600.0
    encode_up: float | None = None
    up: float | None = 1.0
    down: float = 0.5
    guardrail_windows: int = 3
    guardrail_most: float = 1.0
    band_half_life_s: float = 1800.0
    trend_half_life_s: float = 300.0
    forecast_most: float = 0.5

    def __post_init__(self) -> None:
        Params.__post_init__(self)
        above_zero(self, "ratio", "drain_s", "encode_up", "up", "band_half_life_s", "trend_half_life_s")
        fraction(self, "headroom", "down")
        above_zero(self, "wait_share")
        not_negative(self, "encode_period_s", "period_s", "hysteresis_out", "hysteresis_in", "forecast_most")
        not_negative(self, "guardrail_most")
        not_negative(self, "encode_cooldown_out_s", "cooldown_out_s", "cooldown_in_s", "settle_s")
        if self.hysteresis_in >= 1.0:
            raise InfeasibleError(
                f"{self.hysteresis_in:g} is not below 1: nothing would shrink", "hysteresis_in"
            )
        if self.guardrail_windows < 1:
            raise InfeasibleError(f"{self.guardrail_windows} is below 1", "guardrail_windows")

    @property
    def encode_rules(self) -> StepRules:
        """How encode's count moves."""
        return StepRules(
            hysteresis_out=self.hysteresis_out,
            hysteresis_in=self.hysteresis_in,
            cooldown_out_s=self.encode_cooldown_out_s,
            cooldown_in_s=self.cooldown_in_s,
            up=self.encode_up,
            down=self.down,
        )

    @property
    def rules(self) -> StepRules:
        """How prefill's and decode's counts move."""
        return StepRules(
            hysteresis_out=self.hysteresis_out,
            hysteresis_in=self.hysteresis_in,
            cooldown_out_s=self.cooldown_out_s,
            cooldown_in_s=self.cooldown_in_s,
            up=self.up,
            down=self.down,
        )
