"""The decisions of a run that changed something, by service."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from orchestrator.core.changes import Create, PlaceReason
from orchestrator.core.decide import Decision
from orchestrator.core.observed import ReplicaState, Signals, Snapshot
from stages.types import Stage


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


@dataclass(slots=True)
class Timeline:
    """One service's moments.

    Attributes:
        moments: One for each decision that changed something, and the first.
        scale_events: Decisions that changed a stage's count, by stage.
        unplaced_s: Replica-seconds that were planned and had no place, by stage and why.
    """

    moments: list[Moment] = field(default_factory=list)
    scale_events: dict[Stage, int] = field(default_factory=lambda: dict.fromkeys(Stage, 0))
    unplaced_s: dict[tuple[Stage, PlaceReason], float] = field(default_factory=dict)

    def take(self, moment: Moment, changed: Iterable[Stage]) -> None:
        """Keep a moment if it differs from the one before, or stages changed."""
        for stage in changed:
            self.scale_events[stage] += 1
        if changed or not self.moments or moment.counts != self.moments[-1].counts:
            self.moments.append(moment)

    def lacks(self, create: Create, passed_s: float) -> None:
        """Count a replica that has no place."""
        why = create.stage, create.reason
        self.unplaced_s[why] = self.unplaced_s.get(why, 0.0) + passed_s


class Recorder:
    """Watches the decisions of a world.

    Attributes:
        timelines: By service.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self.timelines = {service: Timeline() for service in services}
        self._before_s = 0.0

    def take(self, now_s: float, snapshot: Snapshot, decision: Decision) -> None:
        """Hear of a decision."""
        for create in decision.placement.unplaced:
            self.timelines[create.service].lacks(create, now_s - self._before_s)
        self._before_s = now_s
        changes = decision.changes
        changed = {(create.service, create.stage) for create in changes.create}
        changed |= {(remove.service, remove.stage) for remove in changes.remove}
        draining = Counter(
            (r.service, r.stage) for r in snapshot.replicas if r.state is ReplicaState.DRAINING
        )
        changed |= {(switch.service, s) for switch in changes.switch for s in (switch.stage, switch.to)}
        for service, timeline in self.timelines.items():
            moment = Moment(
                at_s=now_s,
                counts=_counts(decision.signals[service], {s: draining[service, s] for s in Stage}),
                wanted={s: (p.replicas, str(p.reason)) for s, p in decision.plans[service].stages.items()},
            )
            timeline.take(moment, [stage for stage in Stage if (service, stage) in changed])


def _counts(signals: Signals, draining: Mapping[Stage, int]) -> dict[Stage, StageCounts]:
    return {
        stage: StageCounts(
            ready=s.ready, coming=s.coming, draining=draining[stage], waiting_jobs=int(s.waiting_jobs)
        )
        for stage, s in signals.stages.items()
    }
