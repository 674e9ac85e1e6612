"""simulate(): one service, one workload, one fleet, one seed → what would have happened."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from orchestrator.core.capacity import Mix, decode_rate, encode_rate, kv_capacity_tokens, prefill_rate
from orchestrator.core.control_types import Changes, ControlPolicy, Node, Snapshot
from orchestrator.core.decide import Decision
from orchestrator.core.links import Link
from orchestrator.core.profile import HardwareClass
from orchestrator.core.types import Reason
from orchestrator.policy import Policy
from orchestrator.simulator.build import ReplicaShape
from orchestrator.simulator.clock import Clock
from orchestrator.simulator.host_path import Arrive, HostPath
from orchestrator.simulator.outcomes import Ending, Outcomes
from orchestrator.simulator.pool import Pool
from orchestrator.simulator.prompts import text_tokens
from orchestrator.simulator.service import Promises, Service, Speeds, Transfer
from orchestrator.simulator.systems import SYSTEMS, System
from orchestrator.simulator.workload import Workload
from orchestrator.simulator.world import Hosted, Watch, World, unwatched
from orchestrator.totals import ServiceTotals
from stages.types import Stage

_SETTLE_S = 10.0
_BATCH = 4_096

Progress = Callable[[float], None]
"""Called now and then with the fraction of the workload that has arrived."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Everything that a simulation depends on.

    Attributes:
        policy: The policy file.
        control: What control needs of it.
        nodes: The fleet.
        first: The replicas that are there at the start.
        links: links[n] joins replicas that share n leading topology levels.
        system: A key of `SYSTEMS`.
        scaled: Whether control changes the counts; only disaggregated systems are scaled.
    """

    policy: Policy
    control: ControlPolicy
    workload: Workload
    nodes: tuple[Node, ...]
    first: Changes
    links: Sequence[Link]
    system: str = "e-p-d"
    scaled: bool = True
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCounts:
    """Replicas of one stage at one moment."""

    ready: int
    coming: int
    draining: int
    waiting_jobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One decision, kept because something changed.

    Attributes:
        wanted: Replicas planned and the reason, by stage.
    """

    at_s: float
    counts: Mapping[Stage, StageCounts]
    wanted: Mapping[Stage, tuple[int, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What happened.

    Attributes:
        accelerator_s: Accelerator-seconds provisioned by (service, stage, hardware).
        busy_s: Replica-seconds with work by the first stage of a pool.
        replica_s: Replica-seconds provisioned, likewise.
        timeline: A moment for each decision that changed something, the first and the last.
        scale_events: Decisions that changed a stage's count, by stage.
        reasons: Of admission (stage None) and of routing, with counts.
        hops: Hops that each replica was given, by the first stage of its pool.
        span_s: First arrival to last end.
        events: Callbacks that the clock ran.
        wall_s: Seconds that the simulation took.
    """

    scenario: Scenario
    outcomes: Outcomes
    accelerator_s: Mapping[tuple[str, Stage, str], float]
    busy_s: Mapping[Stage, float]
    replica_s: Mapping[Stage, float]
    timeline: Sequence[Moment]
    scale_events: Mapping[Stage, int]
    reasons: Mapping[tuple[Stage | None, Reason], int]
    hops: Mapping[Stage, Mapping[str, int]]
    span_s: float
    events: int
    wall_s: float


def simulate(scenario: Scenario, progress: Progress = lambda fraction: None) -> Run:
    """Run a scenario to its end: every request has ended once."""
    began_s = time.perf_counter()
    clock = Clock()
    outcomes = Outcomes(len(scenario.workload.arrival_s))
    host = scenario.control.profile.host
    path = HostPath(clock, host, np.random.default_rng(scenario.seed)) if host else None
    recorder = _Recorder(scenario.control.service)
    world, service = world_of(scenario, clock, outcomes, path, recorder.take)
    world.start(scenario.first)
    _feed(scenario, clock, path.door(service) if path else service.arrive, progress)
    _settle(clock, outcomes, scenario.policy.admission.deadline_s)
    accelerator_s = world.provisioned_s(clock.now_s)
    return Run(
        scenario=scenario,
        outcomes=outcomes,
        accelerator_s=accelerator_s,
        busy_s={pool.stage: pool.busy_s() for pool in service.pools},
        replica_s=_replica_s(accelerator_s, scenario.control),
        timeline=recorder.moments,
        scale_events=recorder.scale_events,
        reasons=dict(service.reasons),
        hops=world.hops_by_replica(),
        span_s=clock.now_s,
        events=clock.events,
        wall_s=time.perf_counter() - began_s,
    )


def world_of(
    scenario: Scenario, clock: Clock, outcomes: Outcomes, path: HostPath | None, watch: Watch = unwatched
) -> tuple[World, Service]:
    """Return the cluster of a scenario, still without replicas, and its service."""
    service, shapes = _service(scenario, clock, outcomes, path)
    world = World(
        clock,
        scenario.nodes,
        {scenario.control.service: Hosted(service=service, shapes=shapes, policy=scenario.control)},
        np.random.default_rng(scenario.seed),
        scaled=scenario.scaled,
        watch=watch,
    )
    return world, service


def _feed(scenario: Scenario, clock: Clock, arrive: Arrive, progress: Progress) -> None:
    """Let the workload arrive, in batches so that its columns need not become lists at once."""
    work = scenario.workload
    text = text_tokens(work, scenario.control.profile.image_tokens)
    contents = np.zeros(len(work), np.int64) if work.content_ids is None else work.content_ids + 1
    total = len(work.arrival_s)
    for start in range(0, total, _BATCH):
        rows = slice(start, start + _BATCH)
        columns = (work.arrival_s, work.images, text, work.output_tokens, contents)
        for index, row in enumerate(zip(*[c[rows].tolist() for c in columns], strict=True), start):
            arrival_s, images, prompt, output_tokens, content = row
            clock.run_until(arrival_s)
            arrive(index, images, prompt, output_tokens, str(content) if content else "")
        progress(min(1.0, (start + _BATCH) / total))


def _settle(clock: Clock, outcomes: Outcomes, deadline_s: float) -> None:
    """Run until every request has ended; what is not begun ends by its deadline."""
    patience_s = clock.now_s + 100.0 * deadline_s
    while clock.now_s < patience_s and not outcomes.ending.all():
        clock.run_until(clock.now_s + _SETTLE_S)
    for index in np.flatnonzero(outcomes.ending == Ending.OPEN):
        outcomes.end(int(index), Ending.FAILED)


def _service(
    scenario: Scenario, clock: Clock, outcomes: Outcomes, path: HostPath | None
) -> tuple[Service, Mapping[Pool, ReplicaShape]]:
    policy, control, system = scenario.policy, scenario.control, SYSTEMS[scenario.system]
    shapes: dict[Pool, ReplicaShape] = {}
    for stages in system.pools:
        pool = Pool(
            stages,
            control.profile.model,
            policy.routing.weights(stages[0]),
            policy.waiting_params,
            required_level=control.edges.prefill_decode if stages[0] is Stage.DECODE else 0,
            pick=system.pick(),
        )
        shapes[pool] = ReplicaShape(stages=stages, system=system, policy=control, path=path)
    service = Service(
        clock,
        control.profile,
        tuple(shapes),
        Promises(
            bounds=policy.admission_bounds,
            waiting=policy.waiting_params,
            tpot_s=policy.slo.tpot_s,
            deadline_s=policy.admission.deadline_s,
        ),
        speeds(control, scenario.workload, system),
        _transfer_over(scenario.links) if path is None else _at_once,
        ServiceTotals({stage: control.stages[stage].budget_s for stage in Stage}),
        outcomes,
    )
    return service, shapes


def _at_once(size_bytes: int, source: tuple[str, ...], target: tuple[str, ...]) -> float:
    """Move nothing: on one host, what the blob store costs was measured with the hops."""
    return 0.0


def _transfer_over(links: Sequence[Link]) -> Transfer:
    def transfer_s(size_bytes: int, source: tuple[str, ...], target: tuple[str, ...]) -> float:
        shared = 0
        while shared < min(len(source), len(target)) and source[shared] == target[shared]:
            shared += 1
        return links[min(shared, len(links) - 1)].transfer_s(size_bytes)

    return transfer_s


def speeds(control: ControlPolicy, work: Workload, system: System) -> Speeds:
    """Return what one replica of each stage does per second at the workload's mean request."""
    profile = control.profile
    at = {stage: HardwareClass(b.hardware[0], b.tp) for stage, b in control.stages.items()}
    context = float(np.mean(work.context_tokens)) if len(work.arrival_s) else 1.0
    output = float(np.mean(work.output_tokens)) if len(work.arrival_s) else 1.0
    context, output = max(1.0, context), max(1.0, output)
    mix = Mix(prompt_tokens=context, context_tokens=context, output_tokens=output)
    decode = at[Stage.DECODE]
    kv_tokens = kv_capacity_tokens(profile, Stage.DECODE, decode, control.accelerators)
    slots = control.stages[Stage.DECODE].slots
    encode = at[Stage.ENCODE]
    return Speeds(
        rates={
            Stage.ENCODE: encode_rate(profile, encode),
            Stage.PREFILL: prefill_rate(profile, at[Stage.PREFILL]),
            Stage.DECODE: decode_rate(
                profile, decode, mix, tpot_s=control.tpot_s, slots=slots, kv_tokens=kv_tokens
            ),
        },
        image_s=profile.encode[encode].image_s,
        images_at_once=at[Stage.PREFILL].tp,
    )


def _replica_s(
    accelerator_s: Mapping[tuple[str, Stage, str], float], control: ControlPolicy
) -> dict[Stage, float]:
    spent: dict[Stage, float] = {}
    for (_, stage, _), seconds in accelerator_s.items():
        spent[stage] = spent.get(stage, 0.0) + seconds / control.stages[stage].tp
    return spent


@dataclass(slots=True)
class _Recorder:
    """Keeps the decisions that changed something."""

    service: str
    moments: list[Moment] = field(default_factory=list)
    scale_events: dict[Stage, int] = field(default_factory=lambda: dict.fromkeys(Stage, 0))

    def take(self, now_s: float, snapshot: Snapshot, decision: Decision) -> None:
        changes = decision.changes
        changed = {create.stage for create in changes.create} | {remove.stage for remove in changes.remove}
        for stage in changed:
            self.scale_events[stage] += 1
        signals = decision.signals[self.service]
        counts = {
            stage: StageCounts(ready=s.ready, coming=s.coming, draining=0, waiting_jobs=int(s.waiting_jobs))
            for stage, s in signals.stages.items()
        }
        if changed or not self.moments or counts != self.moments[-1].counts:
            plan = decision.plans[self.service]
            wanted = {stage: (p.replicas, str(p.reason)) for stage, p in plan.stages.items()}
            self.moments.append(Moment(at_s=now_s, counts=counts, wanted=wanted))
