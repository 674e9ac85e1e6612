"""simulate(): services with their workloads, one fleet, one seed → what would have happened."""

import heapq
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.core.changes import Changes, PlaceReason
from orchestrator.core.decide import Decision, decide
from orchestrator.core.observed import Node, Snapshot
from orchestrator.core.profile import HardwareClass
from orchestrator.core.types import Reason
from orchestrator.simulator.clock import Clock
from orchestrator.simulator.content import NEW, Content, Hits
from orchestrator.simulator.faults import Fault
from orchestrator.simulator.host_path import Arrive
from orchestrator.simulator.outages import Injector, Strike
from orchestrator.simulator.outcomes import Ending, Outcomes
from orchestrator.simulator.servable import Classes, named_classes
from orchestrator.simulator.service import Service
from orchestrator.simulator.tenant import Tenant
from orchestrator.simulator.timeline import Moment, Recorder, Timeline
from orchestrator.simulator.work import work_from_rows
from orchestrator.simulator.workload import Workload
from orchestrator.simulator.world import Decide, Watch, World, unwatched
from stages.types import Stage

_SETTLE_S = 10.0
_BATCH = 4_096

Progress = Callable[[float], None]
"""Called now and then with the fraction of the requests that has arrived."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Everything that a simulation depends on.

    Attributes:
        tenants: The services, of different names.
        nodes: The fleet that they share.
        first: The replicas that are there at the start.
        scaled: Whether control changes the counts; only disaggregated systems are scaled.
        faults: What goes wrong, and when.
        seed: Of cold starts and of whom faults hit.
        decider: What decides; experiments may put something in the place of `core.decide.decide`.
    """

    tenants: tuple[Tenant, ...]
    nodes: tuple[Node, ...]
    first: Changes
    scaled: bool = True
    faults: tuple[Fault, ...] = ()
    seed: int = 0
    decider: Decide = decide

    @property
    def only(self) -> Tenant:
        """The service of a scenario that has one.

        Raises:
            ValueError: It has several.
        """
        (tenant,) = self.tenants
        return tenant


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRun:
    """What happened to one service.

    Attributes:
        accelerator_s: Accelerator-seconds provisioned by stage and hardware; for a pool of several stages
            under the first, and so are the others.
        busy_s: Replica-seconds with work by stage.
        replica_s: Replica-seconds provisioned, likewise.
        timeline: A moment for each decision that changed something, and the first.
        scale_events: Decisions that changed a stage's count, by stage.
        reasons: Of admission (stage None) and of routing, with counts.
        hops: Hops that each replica was given, by stage and replica.
        hits: What caches supplied.
        unplaced_s: Replica-seconds that were planned and had no place, by stage and why.
    """

    tenant: Tenant
    outcomes: Outcomes
    accelerator_s: Mapping[tuple[Stage, str], float]
    busy_s: Mapping[Stage, float]
    replica_s: Mapping[Stage, float]
    timeline: Sequence[Moment]
    scale_events: Mapping[Stage, int]
    reasons: Mapping[tuple[Stage | None, Reason], int]
    hops: Mapping[tuple[Stage, str], int]
    hits: Hits
    unplaced_s: Mapping[tuple[Stage, PlaceReason], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What happened.

    Attributes:
        services: In the order of the scenario.
        strikes: The faults that happened, with whom they hit.
        span_s: First arrival to last end.
        events: Callbacks that the clock ran.
        wall_s: Seconds that the simulation took.
    """

    scenario: Scenario
    services: tuple[ServiceRun, ...]
    strikes: Sequence[Strike]
    span_s: float
    events: int
    wall_s: float

    @property
    def only(self) -> ServiceRun:
        """The service of a run that has one.

        Raises:
            ValueError: It has several.
        """
        (service,) = self.services
        return service

    def of(self, name: str) -> "Run":
        """Return the run as if it had been of one of its services.

        Raises:
            ValueError: It has no service of that name.
        """
        (service,) = [each for each in self.services if each.tenant.name == name]
        return replace(self, services=(service,))


def simulate(
    scenario: Scenario,
    progress: Progress = lambda fraction: None,
    watch: Watch = unwatched,
) -> Run:
    """Run a scenario to its end: every request has ended once.

    Args:
        scenario: What to run.
        progress: Hears how far it is.
        watch: Hears of every decision.

    Raises:
        ValueError: Two services have one name.
    """
    return Simulation(scenario, watch).run(progress)


class Simulation:
    """A scenario in the making.

    Args:
        scenario: What to run.
        watch: Hears of every decision.

    Attributes:
        clock: The virtual clock.
        services: In the order of the scenario.
        arrive: Takes their requests, likewise.
        world: Where they are.
    """

    def __init__(self, scenario: Scenario, watch: Watch = unwatched) -> None:
        tenants = scenario.tenants
        if len({tenant.name for tenant in tenants}) < len(tenants):
            raise ValueError("services of one scenario have different names")
        self._scenario = scenario
        self._recorder = Recorder([tenant.name for tenant in tenants])
        self._watch = watch
        self.clock = Clock()
        # Of generators of their own, so that hosts and faults change nothing else that is random.
        host_rng = np.random.default_rng([scenario.seed, 2])
        hosted = {
            t.name: t.hosted(self.clock, Outcomes(len(t.workload)), host_rng, _classes(t, scenario))
            for t in tenants
        }
        self.arrive = [hosted[tenant.name].arrive for tenant in tenants]
        self.services = [hosted[tenant.name].service for tenant in tenants]
        self.world = World(
            self.clock,
            scenario.nodes,
            hosted,
            np.random.default_rng(scenario.seed),
            scaled=scenario.scaled,
            decider=scenario.decider,
            watch=self._heard,
        )
        self._injector = Injector(self.world, self.clock, np.random.default_rng([scenario.seed, 1]))

    def run(self, progress: Progress = lambda fraction: None) -> Run:
        """Run to the end, once."""
        began_s, scenario, clock = time.perf_counter(), self._scenario, self.clock
        self.world.start(scenario.first)
        self._injector.schedule(scenario.faults)
        _feed(scenario.tenants, self.arrive, clock, progress)
        deadline_s = max(tenant.policy.admission.deadline_s for tenant in scenario.tenants)
        _settle(clock, self.services, deadline_s)
        spent, hops = self.world.provisioned_s(clock.now_s), self.world.hops()
        return Run(
            scenario=scenario,
            services=tuple(
                _service_run(tenant, service, self._recorder.timelines[tenant.name], spent, hops)
                for tenant, service in zip(scenario.tenants, self.services, strict=True)
            ),
            strikes=tuple(self._injector.strikes),
            span_s=clock.now_s,
            events=clock.events,
            wall_s=time.perf_counter() - began_s,
        )

    def _heard(self, now_s: float, snapshot: Snapshot, decision: Decision) -> None:
        self._recorder.take(now_s, snapshot, decision)
        self._watch(now_s, snapshot, decision)


def _classes(tenant: Tenant, scenario: Scenario) -> Classes:
    """Return where a tenant's replicas may be: those of the start, and what its policy names of the fleet."""
    named = named_classes(tenant.control, {node.hardware for node in scenario.nodes})
    created = [create for create in scenario.first.create if create.service == tenant.name]
    return {
        stage: [*named[stage], *{HardwareClass(c.hardware, c.tp) for c in created if c.stage == stage}]
        for stage in Stage
    }


def _feed(tenants: Sequence[Tenant], arrive: Sequence[Arrive], clock: Clock, progress: Progress) -> None:
    """Let the requests arrive in the order of their times; of one time, in the order of the services."""
    total = sum(len(tenant.workload) for tenant in tenants)
    arrivals = heapq.merge(*[_arrivals(number, tenant) for number, tenant in enumerate(tenants)])
    content_of = [_contents(tenant.workload) for tenant in tenants]
    for count, (arrival_s, number, index, images, prompt, output_tokens) in enumerate(arrivals, 1):
        clock.run_until(arrival_s)
        arrive[number](index, images, prompt, output_tokens, content_of[number](index))
        if not count % _BATCH or count == total:
            progress(count / total)


def _arrivals(number: int, tenant: Tenant) -> Iterator[tuple[float, int, int, int, int, int]]:
    """Yield a tenant's requests, in batches so that its columns need not become lists at once."""
    work = tenant.workload
    text = work_from_rows(work, tenant.control.profile).text_tokens
    columns = (work.arrival_s, work.images, text, work.output_tokens)
    for start in range(0, len(work), _BATCH):
        rows = slice(start, start + _BATCH)
        for index, row in enumerate(zip(*[c[rows].tolist() for c in columns], strict=True), start):
            arrival_s, images, prompt, output_tokens = row
            yield arrival_s, number, index, images, prompt, output_tokens


def _contents(work: Workload) -> Callable[[int], Content]:
    """Return what says of a request what it shares with others."""
    images, prompts = work.content_ids, work.prefix_blocks
    if images is None and prompts is None:
        return lambda index: NEW
    return lambda index: Content(
        images=str(images[index]) if images is not None else "",
        blocks=prompts.of(index).tolist() if prompts else (),
    )


def _settle(clock: Clock, services: Sequence[Service], deadline_s: float) -> None:
    """Run until every request has ended; what is not begun ends by its deadline."""
    patience_s = clock.now_s + 100.0 * deadline_s
    while clock.now_s < patience_s and not all(service.outcomes.ending.all() for service in services):
        clock.run_until(clock.now_s + _SETTLE_S)
        for service in services:
            service.journey.queues.give_up_expired()
    for service in services:
        for index in np.flatnonzero(service.outcomes.ending == Ending.OPEN):
            service.outcomes.end(int(index), Ending.FAILED)


def _service_run(
    tenant: Tenant,
    service: Service,
    timeline: Timeline,
    spent: Mapping[tuple[str, Stage, str], float],
    hops: Mapping[tuple[str, Stage, str], int],
) -> ServiceRun:
    accelerator_s = {
        (stage, hardware): seconds
        for (name, stage, hardware), seconds in spent.items()
        if name == tenant.name
    }
    totals = service.totals
    replica_s: dict[Stage, float] = {}
    for (stage, _), seconds in accelerator_s.items():
        replica_s[stage] = replica_s.get(stage, 0.0) + seconds / tenant.control.stages[stage].tp
    return ServiceRun(
        tenant=tenant,
        outcomes=service.outcomes,
        accelerator_s=accelerator_s,
        busy_s={pool.stage: pool.busy_s() for pool in service.pools},
        replica_s=replica_s,
        timeline=timeline.moments,
        scale_events=timeline.scale_events,
        reasons=dict(service.reasons),
        hops={(stage, replica): n for (name, stage, replica), n in hops.items() if name == tenant.name},
        hits=Hits(
            image_tokens=totals.image_tokens,
            cached_image_tokens=totals.image_hit_tokens,
            prompt_tokens=totals.prompt_tokens,
            cached_prompt_tokens=totals.prompt_hit_tokens,
        ),
        unplaced_s=dict(timeline.unplaced_s),
    )
