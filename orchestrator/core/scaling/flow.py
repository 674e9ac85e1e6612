"""What coupled believes of one moment: the need of each stage, from demand through sizing.

Encode comes first, then prefill from what encode lets through, then decode from what prefill lets through.
"""

from dataclasses import dataclass

from orchestrator.core import demand
from orchestrator.core.control_types import ControlPolicy, Signals, StageSignals
from orchestrator.core.scaling.coupled_params import CoupledParams
from orchestrator.core.scaling.sizing import throughput_need, waiting_need
from stages.types import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Unrounded replicas that a stage needs; None where the profile has no rate.

    Attributes:
        reachable: For the work that can reach the stage.
        offered: For all that is offered; at least as much. Between the two a count is right as it is:
            more replicas would stand idle behind their upstream, and fewer would be missed soon.
    """

    reachable: float | None
    offered: float | None

    def at(self, count: int) -> float | None:
        """Return the need of a stage with so many replicas: its count if that is between the two."""
        if self.reachable is None or self.offered is None:
            return None
        return min(max(float(count), self.reachable), self.offered)


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
        need = self._waiting(self.encode_load(), Stage.ENCODE)
        return Need(reachable=need, offered=need)

    def prefill(self, encode_count: int) -> Need:
        """Return prefill's need while encode has, or soon will have, so many replicas."""
        seen = self.signals
        if not self.params.offered:
            need = self._waiting(seen.stages[Stage.PREFILL].done, Stage.PREFILL)
            return Need(reachable=need, offered=need)
        if not self.params.caps:
            need = self._waiting(self.prefill_load(seen.image_tokens), Stage.PREFILL)
            return Need(reachable=need, offered=need)
        load, hits = self.encode_load(), seen.embedding_hits
        capacity = encode_count * seen.stages[Stage.ENCODE].rate
        uncapped = self._waiting(
            self.prefill_load(demand.image_inflow(seen.image_tokens, hits, load, load)), Stage.PREFILL
        )
        if load <= capacity:
            return Need(reachable=uncapped, offered=uncapped)
        capped = self.prefill_load(demand.image_inflow(seen.image_tokens, hits, load, capacity))
        return Need(reachable=self._waiting(capped, Stage.PREFILL), offered=uncapped)

    def decode(self, prefill_count: int) -> Need:
        """Return decode's need while prefill has, or soon will have, so many replicas."""
        seen = self.signals.stages[Stage.PREFILL]
        if not self.params.offered:
            need = self._throughput(self.signals.stages[Stage.DECODE].done)
            return Need(reachable=need, offered=need)
        if not self.params.caps:
            need = self._throughput(self.decode_load(self.requests))
            return Need(reachable=need, offered=need)
        wanted = self.requests + self._drain(Stage.PREFILL, seen.waiting_jobs)
        passed = prefill_count * seen.rate / self.signals.prefill_tokens
        return Need(
            reachable=self._throughput(self.decode_load(demand.request_inflow(wanted, 0.0, passed))),
            offered=self._throughput(self.decode_load(wanted)),
        )

    def encode_load(self) -> float:
        """Return L_E."""
        seen = self.signals
        if not self.params.offered:
            return seen.stages[Stage.ENCODE].done
        arriving = demand.encode_demand(seen.image_tokens, seen.embedding_hits, 0.0)
        return arriving + self._backlog_drain(Stage.ENCODE, arriving)

    def prefill_load(self, images: float) -> float:
        """Return L_P while so many image tokens per second reach prefill."""
        kappa, hits = self.policy.kappa, self.signals.prefix_hits
        arriving = demand.prefill_demand(self.text_tokens, images, kappa, hits, 0.0)
        return arriving + self._backlog_drain(Stage.PREFILL, arriving)

    def decode_load(self, inflow: float) -> float:
        """Return L_D while so many requests per second reach decode."""
        seen, each = self.signals.stages[Stage.DECODE], self.signals.output_tokens
        arriving = demand.decode_demand(seen.done, inflow, each, 0.0)
        return arriving + self._backlog_drain(Stage.DECODE, arriving)

    def _backlog_drain(self, stage: Stage, inflow: float) -> float:
        """Return q / T_drain, with q the backlog by the time that a start takes."""
        seen, lead_s = self.signals.stages[stage], self.policy.stages[stage].lead_s
        capacity = seen.replicas * seen.rate
        return self._drain(
            stage,
            demand.backlog_ahead(seen.waiting_units, inflow, capacity, lead_s, self.policy.queue_s),
        )

    def _drain(self, stage: Stage, backlog: float) -> float:
        if not self.params.drain:
            return 0.0
        return backlog / max(self.params.drain_s, self.policy.stages[stage].lead_s)

    def _waiting(self, load: float, stage: Stage) -> float | None:
        params = self.params
        return waiting_need(
            load, self._seen(stage), dispersion=params.dispersion, wait_share=params.wait_share
        )

    def _throughput(self, load: float) -> float | None:
        return throughput_need(load, self._seen(Stage.DECODE), self.params.headroom)

    def _seen(self, stage: Stage) -> StageSignals:
        return self.signals.stages[stage]
