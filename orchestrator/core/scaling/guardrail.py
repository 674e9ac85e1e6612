"""The guardrail: when the SLO is breached though the model sees enough replicas, somebody gets more.

Profiles err and so do models of queues; this is the integral part of the control. It acts on the one stage
to blame, and only on a breach that the model cannot explain: while a stage that may be the cause is known to
be short or has replicas starting, asking for more elsewhere helps nobody.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.core.observed import Signals
from stages.types import Stage

BREACH, BAD_BREACH = 1.0, 1.2
STEP, BAD_STEP = 0.1, 0.2
"""Breaches in multiples of the SLO, and growth as a fraction of the count: HeteroScale's steps."""
COMFORT = 0.8
"""Below this multiple of the SLO, what was added fades."""
FADE_HALF_LIFE_S = 1800.0
FORGOTTEN = 0.25
"""Replicas; less than that was added is nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guardrail:
    """What breaches have led to.

    Attributes:
        breaches: Windows with an unexplained breach in a row.
        extra: Replicas by stage on top of what the model says.
    """

    breaches: int = 0
    extra: Mapping[Stage, float] = field(default_factory=dict)

    def watched(self, worst: float | None, window_s: float) -> "Guardrail":
        """Return it after one more window with this multiple of the SLO; None if it is unknown."""
        if worst is None:
            return self
        if worst > BREACH:
            return replace(self, breaches=self.breaches + 1)
        if worst >= COMFORT or not self.extra:
            return replace(self, breaches=0) if self.breaches else self
        keep = 0.5 ** (window_s / FADE_HALF_LIFE_S)
        return Guardrail(extra={s: keep * n for s, n in self.extra.items() if keep * n >= FORGOTTEN})

    def guarded(self, stage: Stage, need: float, most: float) -> float:
        """Return a need with what breaches have added: at most `most` times the need, or one replica."""
        extra = self.extra.get(stage)
        return need if extra is None else need + min(extra, max(1.0, most * need))

    def raised(self, stage: Stage, need: float, target: int, most: float) -> "Guardrail":
        """Return it with what lifts the need of the model to a target; never less than before.

        The next growth takes as many windows of breach again.
        """
        extra = max(self.extra.get(stage, 0.0), min(target - need, max(1.0, most * need)))
        return Guardrail(extra={**self.extra, stage: extra})


NO_BREACH = Guardrail()


def worst_ratio(signals: Signals) -> float | None:
    """Return the larger of the multiples of the SLO that TTFT and TPOT are at; None if both are unknown."""
    known = [r for r in (signals.ttft_ratio, signals.tpot_ratio) if r is not None]
    return max(known, default=None)


def tpot_is_worse(signals: Signals) -> bool:
    """Return whether TPOT is further from its target than TTFT."""
    return (signals.tpot_ratio or 0.0) > (signals.ttft_ratio or 0.0)


def to_blame(signals: Signals) -> Stage | None:
    """Return the stage a breach is due to: decode for TPOT, else where waits take most of their budget."""
    if tpot_is_worse(signals):
        return Stage.DECODE
    shares = {s: (signals.stages[s].wait_s or 0.0) / signals.stages[s].budget_s for s in Stage}
    worst = max(Stage, key=lambda s: shares[s])
    return worst if shares[worst] > 0.0 else None


def growth(count: int, worst: float) -> int:
    """Return the count after a guardrail's step."""
    return math.ceil(round(count * (1.0 + (BAD_STEP if worst > BAD_BREACH else STEP)), 6))
