"""A monolith that scales with its load: what a split service has to beat."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from experiments.fleets import packed
from orchestrator.core.capacity import encode_rate
from orchestrator.core.changes import Changes, Remove
from orchestrator.core.decide import Decision, ServiceState
from orchestrator.core.observed import Node, PlacedReplica, ReplicaState, Signals, Snapshot
from orchestrator.core.planned import ControlPolicy, ScalePlan, ScalerState, StagePlan
from orchestrator.core.profile import HardwareClass
from orchestrator.core.scaling.steps import Clock, StepRules, step
from orchestrator.core.scheduler import Placement
from orchestrator.core.signals import summarize
from orchestrator.simulator.auto_rate import accelerator_s
from orchestrator.simulator.run import Scenario
from orchestrator.simulator.summary import HOUR_S
from orchestrator.simulator.tenant import Tenant
from stages.types import Stage

TP = 4
PERIOD_S = 30.0
RULES = StepRules(
    hysteresis_out=0.10, hysteresis_in=0.20, cooldown_out_s=120.0, cooldown_in_s=600.0, up=1.0, down=0.2
)
"""Those of coupled's prefill and decode, so that the comparison is of the split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MonolithState(ScalerState):
    """When it last decided, and when the count last moved."""

    decided_s: float = -PERIOD_S
    clock: Clock = field(default_factory=Clock)


@dataclass(frozen=True, slots=True, kw_only=True)
class MonolithScaler:
    """N = ⌈busy replica-seconds per second that the offered work takes / target⌉, every 30 s.

    ModServe's formula (arXiv 2502.00937), with the work of all stages in one pool: image tokens, prompt
    tokens and output tokens, each over the rate of a replica that does nothing else. A pure function of its
    arguments, like `decide`.

    Attributes:
        target: Fraction of a replica's time to plan with.
        images_in_parallel: Its replicas spread images over their accelerators.
    """

    target: float
    images_in_parallel: bool

    def __call__(
        self,
        snapshot: Snapshot,
        policies: Mapping[str, ControlPolicy],
        state: Mapping[str, ServiceState],
        now_s: float,
    ) -> Decision:
        """Return the decision for the one service there is; see `decide`."""
        ((name, policy),) = policies.items()
        before = state.get(name, ServiceState())
        signals, memory = summarize(
            snapshot.services.get(name), snapshot.replicas, policy, before.signals, now_s
        )
        kept = [r for r in snapshot.replicas if r.state is not ReplicaState.DRAINING]
        plan, scaler = self._plan(signals, policy, before.scaler, len(kept), now_s)
        return Decision(
            signals={name: signals},
            plans={name: ScalePlan(stages=dict.fromkeys(Stage, plan))},
            placement=Placement(kept=frozenset(r.replica_id for r in kept)),
            changes=_changes(plan.replicas, kept, policy, snapshot),
            state={name: ServiceState(signals=memory, scaler=scaler)},
        )

    def _plan(
        self, signals: Signals, policy: ControlPolicy, state: ScalerState, count: int, now_s: float
    ) -> tuple[StagePlan, ScalerState]:
        mine = state if isinstance(state, MonolithState) else MonolithState(clock=Clock(moved_s=now_s))
        bounds, need = policy.stages[Stage.ENCODE], self.need(signals, policy)
        if now_s - mine.decided_s < PERIOD_S:
            target, reason = step(count, float(count), RULES, mine.clock, bounds, now_s)
            return StagePlan(replicas=target, need=need, reason=reason), mine
        target, reason = step(count, need, RULES, mine.clock, bounds, now_s)
        after = replace(mine, decided_s=now_s, clock=mine.clock.after(count, target, now_s))
        return StagePlan(replicas=target, need=need, reason=reason), after

    def need(self, signals: Signals, policy: ControlPolicy) -> float:
        """Return the unrounded count."""
        rates = {stage: signals.stages[stage].rate for stage in Stage}
        if self.images_in_parallel:
            hardware = policy.stages[Stage.ENCODE].hardware[0]
            rates[Stage.ENCODE] = TP * encode_rate(policy.profile, HardwareClass(hardware, 1))
        offered = {
            Stage.ENCODE: signals.stages[Stage.ENCODE].offered,
            Stage.PREFILL: signals.stages[Stage.PREFILL].offered,
            Stage.DECODE: signals.requests * signals.output_tokens,
        }
        return sum(offered[stage] / rates[stage] for stage in Stage if rates[stage]) / self.target


def monolith_scenario(
    tenant: Tenant, nodes: tuple[Node, ...], target: float, *, images_in_parallel: bool, seed: int
) -> Scenario:
    """Return a scenario of a service as a monolith that scales; it begins with what the first hour needs.

    Args:
        tenant: The service, split.
        nodes: All of its first hardware.
        target: See `MonolithScaler`.
        images_in_parallel: See `MonolithScaler`.
        seed: Of cold starts.
    """
    most = sum(node.accelerators for node in nodes) // TP
    whole = as_monolith(tenant, images_in_parallel=images_in_parallel, most=most)
    first_hour = tenant.workload.slice(0.0, min(HOUR_S, tenant.workload.span_s))
    busy = sum(float(each.sum()) for each in accelerator_s(tenant.control, first_hour).values())
    count = min(most, max(1, round(busy / first_hour.span_s / TP / target)))
    return Scenario(
        tenants=(whole,),
        nodes=nodes,
        first=packed(whole.control, {Stage.ENCODE: count}, nodes),
        seed=seed,
        decider=MonolithScaler(target=target, images_in_parallel=images_in_parallel),
    )


def as_monolith(tenant: Tenant, *, images_in_parallel: bool, most: int) -> Tenant:
    """Return a service whose replicas do all stages on four accelerators each, up to `most` of them."""
    control = tenant.control
    stages = dict(control.stages)
    stages[Stage.ENCODE] = replace(stages[Stage.ENCODE], tp=TP, min=1, max=most)
    name = "monolith-least-work-vit-dp" if images_in_parallel else "monolith-least-work"
    return replace(tenant, control=replace(control, stages=stages), system=name)


def _changes(wanted: int, kept: list[PlacedReplica], policy: ControlPolicy, snapshot: Snapshot) -> Changes:
    if wanted < len(kept):
        last = sorted(kept, key=lambda r: (r.state is ReplicaState.READY, r.pending_units, r.replica_id))
        return Changes(
            remove=tuple(
                Remove(replica_id=r.replica_id, service=r.service, stage=r.stage)
                for r in last[: len(kept) - wanted]
            )
        )
    taken: dict[str, int] = {}
    for replica in snapshot.replicas:
        taken[replica.node_id] = taken.get(replica.node_id, 0) + replica.tp
    free = [replace(n, accelerators=n.accelerators - taken.get(n.node_id, 0)) for n in snapshot.nodes]
    room = sum(node.accelerators // TP for node in free)
    return packed(policy, {Stage.ENCODE: min(room, wanted - len(kept))}, free)
