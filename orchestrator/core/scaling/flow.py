"""What coupled believes of one moment: the need of each stage, from demand through sizing.

Encode comes first, then prefill from what encode lets through, then decode from what prefill lets through.
"""

import math
from dataclasses import dataclass

from orchestrator.core import demand
from orchestrator.core.observed import Signals
from orchestrator.core.planned import ControlPolicy
from orchestrator.core.scaling.coupled_params import CoupledParams
from orchestrator.core.scaling.sizing import throughput_need, waiting_need
from stages.types import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Unrounded replicas that a stage needs.

    Attributes:
        reachable: For the work that can reach the stage.
        offered: For all that is offered; at least as much. Between the two a count is right as it is:
            more replicas would stand idle behind their upstream, and fewer would be missed soon.
        known: Whether it could be told at all.
    """

    reachable: float
    offered: float
    known: bool = True

    def at(self, count: int) -> float:
        """Return the need of a stage with so many replicas: its count if that is between the two."""
        return min(max(float(count), self.reachable), self.offered)

    def scaled(self, share: float) -> "Need":
        """Return it times a ratio."""
        return Need(reachable=self.reachable * share, offered=self.offered * share)

    def raised(self, other: "Need", most: float) -> "Need":
        """Return the larger of two needs, and at most so many times this one; infinite for no bound."""

        def larger(mine: float, theirs: float) -> float:
            return max(mine, theirs if math.isinf(most) else min(theirs, most * mine))

        return Need(
            reachable=larger(self.reachable, other.reachable), offered=larger(self.offered, other.offered)
        )


UNKNOWN = Need(reachable=0.0, offered=0.0, known=False)


def need(offered: float | None, reachable: float | None = None) -> Need:
    """Return a need; the reachable is the offered one unless given, and without a rate neither is known."""
    if offered is None:
        return UNKNOWN
    return Need(reachable=offered if reachable is None else min(reachable, offered), offered=offered)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """One moment of a service, for one set of parameters.

    Attributes:
        text_tokens: Offered per second at t + lead of prefill.
        requests: Offered per second at t + lead of decode.
    """

    signals: Signals
    policy: ControlPolicy
    params: CoupledParams
    text_tokens: float
    requests: float

    def encode(self) -> Need:
        """Return encode's need."""
        return need(self._waiting(self.encode_load(), Stage.ENCODE))

    def prefill(self, encode_count: int) -> Need:
        """Return prefill's need while encode has, or soon will have, so many replicas."""
        seen, hits = self.signals, self._hits(self.signals.embedding_hits)
        if not self.params.offered:
            return need(self._waiting(seen.stages[Stage.PREFILL].done, Stage.PREFILL))
        if not self.params.caps:
            return need(self._waiting(self.prefill_load(seen.image_tokens), Stage.PREFILL))
        load, capacity = self.encode_load(), encode_count * seen.stages[Stage.ENCODE].rate
        offered = self._prefill_for(demand.image_inflow(seen.image_tokens, hits, load, load))
        if load <= capacity or capacity <= 0.0 < encode_count:
            return need(offered)
        return need(offered, self._prefill_for(demand.image_inflow(seen.image_tokens, hits, load, capacity)))

    def decode(self, prefill_count: int) -> Need:
        """Return decode's need while prefill has, or soon will have, so many replicas."""
        before, now = self.signals.stages[Stage.PREFILL], self.signals.stages[Stage.DECODE]
        if not self.params.offered:
            return need(self._throughput(now.done))
        if not self.params.caps:
            return need(self._throughput(self.decode_load(self.requests)))
        offered = demand.request_inflow(self.requests, self._jobs_drain(), math.inf)
        capacity = prefill_count * before.rate / self.signals.prefill_tokens
        if offered <= capacity or capacity <= 0.0 < prefill_count:
            return need(self._throughput(self.decode_load(offered)))
        return need(
            self._throughput(self.decode_load(offered)),
            self._throughput(self.decode_load(capacity)),
        )

    def encode_load(self) -> float:
        """Return L_E."""
        seen = self.signals
        if not self.params.offered:
            return seen.stages[Stage.ENCODE].done
        arriving = demand.encode_demand(seen.image_tokens, self._hits(seen.embedding_hits), 0.0)
        return arriving + self._backlog_drain(Stage.ENCODE, arriving)

    def prefill_load(self, images: float) -> float:
        """Return L_P while so many image tokens per second reach prefill."""
        kappa, hits = self.policy.kappa, self._hits(self.signals.prefix_hits)
        arriving = demand.prefill_demand(self.text_tokens, images, kappa, hits, 0.0)
        return arriving + self._backlog_drain(Stage.PREFILL, arriving)

    def decode_load(self, inflow: float) -> float:
        """Return L_D while so many requests per second reach decode."""
        seen, each = self.signals.stages[Stage.DECODE], self.signals.output_tokens
        arriving = demand.decode_demand(seen.done, inflow, each, 0.0)
        return arriving + self._backlog_drain(Stage.DECODE, arriving)

    def _hits(self, fraction: float) -> float:
        return fraction if self.params.cache_hits else 0.0

    def _backlog_drain(self, stage: Stage, inflow: float) -> float:
        """Return q / T_drain, with q the backlog by the time that a start takes."""
        seen, lead_s = self.signals.stages[stage], self.policy.stages[stage].lead_s
        return self._drain(
            stage,
            demand.backlog_ahead(seen.waiting_units, inflow, seen.capacity, lead_s, self.policy.queue_s),
        )

    def _drain(self, stage: Stage, backlog: float) -> float:
        if not self.params.drain:
            return 0.0
        return backlog / max(self.params.drain_s, self.policy.stages[stage].lead_s)

    def _jobs_drain(self) -> float:
        """Return n_qP / T_drain, prompts per second."""
        return self._drain(Stage.PREFILL, self.signals.stages[Stage.PREFILL].waiting_jobs)

    def _prefill_for(self, images: float) -> float | None:
        return self._waiting(self.prefill_load(images), Stage.PREFILL)

    def _waiting(self, load: float, stage: Stage) -> float | None:
        params = self.params
        return waiting_need(
            load, self.signals.stages[stage], dispersion=params.dispersion, wait_share=params.wait_share
        )

    def _throughput(self, load: float) -> float | None:
        return throughput_need(load, self.signals.stages[Stage.DECODE], self.params.headroom)
